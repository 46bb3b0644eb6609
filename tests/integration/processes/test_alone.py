"""A server without a fleet: it knows nothing of one, in any of its processes."""

from pathlib import Path

from tests.support.server import serving

# Imported by Python when it starts: notes what each process imports, also one that ends without a word.
NOTES = """
import os, sys
place = os.environ["IMPORTED"]
def note(event, arguments):
    if event == "import":
        with open(os.path.join(place, str(os.getpid())), "a") as file:
            file.write(arguments[0] + "\\n")
sys.addaudithook(note)
"""
# What agrees, and what speaks to others.
OF_A_FLEET = {"app.control.fleet_files", "app.control.fleet_policy"} | {
    f"app.fleet.{name}" for name in ("coordinator", "fleet", "follower", "member", "peers", "store", "transfer")
}


def test_it_imports_nothing_of_a_fleet_and_starts_no_process_more(exports: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOTES)
    imported = tmp_path / "imported"
    imported.mkdir()
    served = {"cartpole": exports / "cartpole"}  # not prepared, so that the builder has all imported that it needs
    with serving(served, PYTHONPATH=str(tmp_path), IMPORTED=str(imported)) as server:
        for path in ("/action", "/sessions"):
            server.http.post(path, json={"observation": [0.1, 0.0, 0.0, 0.0]}).raise_for_status()
        assert server.reload("cartpole").json().get("members", 0) == 0
        assert server.http.get("/readyz").json() == {"status": "ready"}
        assert server.admin.get("/admin/fleet").status_code == 501
        (builder,), (worker,) = server.processes("app.builder"), server.processes("app.worker")
        assert server.processes() == sorted((builder, worker))
        known = {name: set((imported / str(pid)).read_text().split()) for name, pid in
                 {"control": server.process.pid, "builder": builder, "worker": worker}.items()}  # fmt: skip
    assert {"app.control.server", "app.fleet.commit"} <= known["control"]  # it is seen what is imported
    assert "app.api.routes.fleet" in known["worker"]
    for name, modules in known.items():
        of_redis = {module for module in modules if module.partition(".")[0] == "redis"}
        assert not of_redis | (modules & OF_A_FLEET), name
    assert len(list(imported.iterdir())) == len(known)
