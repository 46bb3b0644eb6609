import json
import logging

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from app import errors
from app.api import problems
from app.api.problems import MEDIA_TYPE, STATUS, problem_response, status_of


def leaves_of(kind: type) -> list[type]:
    children = kind.__subclasses__()
    return [leaf for child in children for leaf in leaves_of(child)] if children else [kind]


def example(kind: type) -> errors.PolicyServerError:
    if kind is errors.DoesNotFit:
        return errors.DoesNotFit([errors.Problem("reward", "null", "one float32")])
    if kind is errors.SessionConflict:
        return errors.SessionConflict("what happened", 3)
    return kind("what happened")


LEAVES = leaves_of(errors.PolicyServerError)


def test_the_table_has_exactly_the_leaves_of_the_tree():
    assert set(STATUS) == set(LEAVES)


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_error_becomes_a_problem(kind):
    error = example(kind)
    response = problem_response(error)
    status, title = STATUS[kind]
    body = json.loads(response.body)
    assert response.status_code == status_of(error) == body["status"] == status
    assert response.headers["content-type"] == MEDIA_TYPE == "application/problem+json"
    assert (body["title"], body["detail"]) == (title, str(error))
    assert body["type"] == f"urn:policy-server:problem:{title.lower().replace(' ', '-')}"


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_callers_cause_is_4xx_or_unavailable_and_ours_is_500(kind):
    """But for a process that is started again at once: it is there when the caller asks again."""
    status = STATUS[kind][0]
    assert (status == 500) is (issubclass(kind, errors.Fault) and kind is not errors.LinkLost)


def test_a_process_that_is_gone_is_not_there_for_now_and_the_answer_says_when_to_ask_again():
    response = problem_response(errors.LinkLost("the process that should check is gone, and is started again"))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert json.loads(response.body)["detail"] == "the process that should check is gone, and is started again"


def test_every_status_of_the_contract_is_in_the_table():
    assert {status for error, (status, _) in STATUS.items() if error is not errors.ClientGone} == {
        400, 401, 403, 404, 408, 409, 413, 414, 415, 422, 429, 431, 500, 501, 503, 504,
    }  # fmt: skip


def test_a_message_that_names_a_file_by_odd_bytes_is_a_problem_too():
    assert (
        json.loads(problem_response(errors.NotReady("/a\udcff is no folder")).body)["detail"]
        == "/a\\udcff is no folder"
    )


def test_titles_are_one_per_error():
    titles = [title for _, title in STATUS.values()]
    assert len(set(titles)) == len(titles)


def test_input_that_does_not_fit_lists_every_problem():
    error = errors.DoesNotFit(
        [errors.Problem("observation[2]", "NaN", "a finite number"), errors.Problem("reward", "null", "one float32")]
    )
    assert json.loads(problem_response(error).body)["errors"] == [
        {"where": "observation[2]", "problem": "NaN", "expected": "a finite number"},
        {"where": "reward", "problem": "null", "expected": "one float32"},
    ]


def test_full_queue_says_when_to_come_again():
    assert problem_response(errors.Overloaded("full", 3)).headers["retry-after"] == "3"


def test_missing_token_says_which_scheme_is_wanted():
    assert problem_response(errors.Unauthorized("no token")).headers["www-authenticate"] == "Bearer"


def test_a_bug_is_logged_and_not_shown_to_the_caller(caplog):
    error = ZeroDivisionError("the secret of line 7")
    with caplog.at_level(logging.ERROR, "policy_server.http"):
        response = problem_response(error)
    assert (response.status_code, status_of(error)) == (500, 500)
    assert b"secret" not in response.body
    assert "the secret of line 7" in caplog.text


@pytest.mark.anyio
async def test_allow_names_the_methods_of_all_routes_of_a_path():
    """However the framework keeps the routes."""
    app, router = FastAPI(), APIRouter(prefix="/v1")

    async def nothing() -> None:
        pass

    for method in ("GET", "DELETE", "PUT"):
        router.add_api_route("/{name}", nothing, methods=[method])
    router.add_api_route("/{name}/more", nothing, methods=["POST"])
    app.include_router(router)
    problems.install(app)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        for method, path, allowed in (
            ("POST", "/v1/x", "DELETE, GET, PUT"),
            ("GET", "/v1/x/more", "POST"),
            ("GET", "/v2", None),
        ):
            assert (await client.request(method, path)).headers.get("allow") == allowed
