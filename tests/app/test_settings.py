import argparse
import re
from pathlib import Path

import pytest

from app.settings import (
    PolicyFolder,
    Settings,
    SettingsError,
    add_options,
    all_settings,
    settings_from,
    traces_are_sent,
    unknown_variables,
    variable,
)

CONFIGURATION = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"


def parsed(*arguments: str) -> dict:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return vars(parser.parse_args(arguments))


@pytest.mark.parametrize("setting", all_settings(), ids=lambda setting: setting.name)
def test_every_setting_has_help_and_a_default_of_its_kind(setting):
    assert setting.metadata["help"]
    assert isinstance(setting.default, bool | int | float | str)
    if isinstance(setting.default, int) and not isinstance(setting.default, bool):
        assert setting.metadata["least"] <= setting.default


def test_the_docs_list_every_setting_with_its_default_and_its_help_word_for_word():
    page = CONFIGURATION.read_text()
    listed = re.findall(r"^\| `(POLICY_SERVER_\w+)` \| `([^`]*)` \| (.*) \|$", page, re.MULTILINE)
    assert [(name, default, re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text)) for name, default, text in listed] == [
        (variable(setting.name), str(setting.default).lower(), setting.metadata["help"]) for setting in all_settings()
    ]


def test_nothing_given_means_the_defaults_of_the_table():
    settings = settings_from(["p=/p"], parsed(), {})
    assert settings == Settings((PolicyFolder("p", Path("/p")),))


# One value for each setting that is neither its default nor another case's.
GIVEN = {
    "host": ("0.0.0.0", "::1", "0.0.0.0", "::1"),
    "port": ("0", "9000", 0, 9000),
    "grpc_port": ("9001", "9002", 9001, 9002),
    "workers": ("1", "1", 1, 1),
    "engine": ("tensorflow", "auto", "tensorflow", "auto"),
    "deadline_ms": ("5", "7", 5, 7),
    "swap_deadline_ms": ("13", "14", 13, 14),
    "stalled_s": ("15", "16", 15, 16),
    "body_limit_bytes": ("100", "200", 100, 200),
    "upload_limit_bytes": ("300", "400", 300, 400),
    "rows_limit": ("10", "20", 10, 20),
    "keep_alive_s": ("30", "31", 30, 31),
    "client_timeout_s": ("33", "34", 33, 34),
    "buffered_limit_bytes": ("2000000", "3000000", 2_000_000, 3_000_000),
    "queue_limit_requests": ("2", "3", 2, 3),
    "sessions_limit": ("4", "6", 4, 6),
    "sessions_per_client": ("2", "3", 2, 3),
    "sessions_bytes_limit": ("500", "600", 500, 600),
    "sessions_idle_s": ("8", "9", 8, 9),
    "retained_versions": ("11", "12", 11, 12),
    "probe_inputs": ("/p.json", "/q.json", "/p.json", "/q.json"),
    "state_dir": ("/s", "/t", "/s", "/t"),
    "experience_dir": ("/e", "/f", "/e", "/f"),
    "experience_share": ("0.25", "0.5", 0.25, 0.5),
    "experience_bytes_limit": ("2000000", "3000000", 2_000_000, 3_000_000),
    "experience_segment_bytes": ("70000", "80000", 70_000, 80_000),
    "experience_segment_s": ("17", "18", 17, 18),
    "root_path": ("/a", "/b", "/a", "/b"),
    "trusted_proxies": ("10.0.0.0/8", "::1", "10.0.0.0/8", "::1"),
    "cors_origins": ("*", "http://x", "*", "http://x"),
    "non_finite": ("accept", "refuse", "accept", "refuse"),
    "openpi": ("p", "p", "p", "p"),
    "uds": ("/a.sock", "/b.sock", "/a.sock", "/b.sock"),
    "uds_mode": ("600", "666", "600", "666"),
    "uds_owner": ("a:b", "c:d", "a:b", "c:d"),
    "fleet": ("a", "b", "a", "b"),
    "advertise": ("http://a:1", "https://b", "http://a:1", "https://b"),
    "checkpoint_expected_s": ("60", "90", 60, 90),
    "log_format": ("json", "text", "json", "text"),
    "log_level": ("debug", "error", "debug", "error"),
}
SWITCHES = ("watch", "strict_bounds", "traces")
SECRETS = {
    "admin_token": "s3",
    "data_token": "s4",
    "session_url": "redis://:password@host/1",
    "fleet_url": "redis://host/2",
}


def test_the_cases_below_cover_every_setting():
    assert {*GIVEN, *SWITCHES, *SECRETS} == {setting.name for setting in all_settings()}


@pytest.mark.parametrize("name", GIVEN)
def test_command_line_wins_over_environment_and_environment_over_default(name):
    on_line, in_environment, line_value, environment_value = GIVEN[name]
    env = {variable(name): in_environment}
    flag = "--" + name.replace("_", "-")
    assert getattr(settings_from(["/p"], parsed(), env), name) == environment_value
    assert getattr(settings_from(["/p"], parsed(flag, on_line), env), name) == line_value
    assert getattr(settings_from(["/p"], parsed(flag, on_line), {}), name) == line_value


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_have_both_directions(name):
    flag = name.replace("_", "-")
    for on_line, in_environment, value in ((f"--{flag}", "false", True), (f"--no-{flag}", "true", False)):
        assert getattr(settings_from(["/p"], parsed(on_line), {variable(name): in_environment}), name) is value


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_come_from_the_environment_only(name):
    assert getattr(settings_from(["/p"], parsed(), {variable(name): SECRETS[name]}), name) == SECRETS[name]
    assert name not in parsed()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("TRUE", True), ("yes", True), ("on", True), ("0", False), ("False", False), ("no", False)],
)
def test_words_of_switches_in_the_environment(text, value):
    assert settings_from(["/p"], {}, {"POLICY_SERVER_STRICT_BOUNDS": text}).strict_bounds is value


@pytest.mark.parametrize(
    ("options", "env", "says"),
    [
        ({"port": "http"}, {}, "--port is 'http', expected an integer"),
        ({"port": "-1"}, {}, "--port is -1, expected 0 to 65535"),
        ({"port": "65536"}, {}, "--port is 65536, expected 0 to 65535"),
        ({}, {"POLICY_SERVER_PORT": ""}, "POLICY_SERVER_PORT is '', expected an integer"),
        ({}, {"POLICY_SERVER_PORT": "8000.0"}, "POLICY_SERVER_PORT is '8000.0', expected an integer"),
        ({"experience_share": "much"}, {}, "--experience-share is 'much', expected a number"),
        ({"experience_share": "1.5"}, {}, "--experience-share is 1.5, expected 0.0 to 1.0"),
        ({"experience_share": "nan"}, {}, "--experience-share is nan, expected 0.0 to 1.0"),
        ({"workers": "65"}, {}, "--workers is 65, expected 1 to 64"),
        ({"deadline_ms": "0"}, {}, "--deadline-ms is 0, expected 1 or more"),
        ({}, {"POLICY_SERVER_ROWS_LIMIT": "0"}, "POLICY_SERVER_ROWS_LIMIT is 0, expected 1 or more"),
        ({"engine": "onnx"}, {}, "--engine is 'onnx', expected one of auto, litert, tensorflow"),
        ({}, {"POLICY_SERVER_LOG_LEVEL": "loud"}, "POLICY_SERVER_LOG_LEVEL is 'loud', expected one of debug"),
        ({}, {"POLICY_SERVER_WATCH": "maybe"}, "POLICY_SERVER_WATCH is 'maybe', expected true or false"),
    ],
)
def test_bad_value_names_its_source_what_came_and_what_was_expected(options, env, says):
    with pytest.raises(SettingsError) as caught:
        settings_from(["/p"], options, env)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("listed", "name", "folder"),
    [
        ("cartpole=/x/y", "cartpole", "/x/y"),
        ("/x/cartpole", "cartpole", "/x/cartpole"),
        ("/x/cartpole/", "cartpole", "/x/cartpole"),
        ("a.b-c_1=/x", "a.b-c_1", "/x"),
        ("p=/x/with=sign", "p", "/x/with=sign"),
        ("/x/hidden=[64,64]/cartpole", "cartpole", "/x/hidden=[64,64]/cartpole"),
    ],
)
def test_policy_is_named_or_takes_the_name_of_its_folder(listed, name, folder):
    assert settings_from([listed], {}, {}).policies == (PolicyFolder(name, Path(folder)),)


def test_folders_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    policies = settings_from(["a=here", "b=~/there", "c=."], {}, {}).policies
    assert [p.folder for p in policies] == [tmp_path / "here", Path("/home/someone/there"), tmp_path]


@pytest.mark.parametrize("name", ["uds", "state_dir", "probe_inputs", "experience_dir"])
def test_a_path_may_begin_at_the_home(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for text, path in (("here", "here"), ("~/there", "/home/someone/there"), ("", "")):
        assert getattr(settings_from(["p=/p"], {name: text}, {}), name) == str(path)
    assert getattr(settings_from(["p=/p"], {}, {f"POLICY_SERVER_{name.upper()}": "~"}), name) == "/home/someone"


def test_the_home_of_somebody_who_is_unknown_is_refused_by_what_names_it():
    for name, listed in (("--state-dir", "p=/p"), ("the folder of a policy", "p=~nobody-here/p")):
        with pytest.raises(SettingsError, match=f"^{name} is '~nobody-here/p', but that user has no home"):
            settings_from([listed], {"state_dir": "~nobody-here/p"} if name.startswith("--") else {}, {})
    with pytest.raises(SettingsError, match="POLICY_SERVER_UDS is '~nobody-here/s'"):
        settings_from(["p=/p"], {}, {"POLICY_SERVER_UDS": "~nobody-here/s"})


def test_policies_may_come_from_the_environment_but_the_command_line_wins():
    env = {"POLICY_SERVER_POLICIES": "a=/a  b=/b"}
    assert [p.name for p in settings_from([], {}, env).policies] == ["a", "b"]
    assert [p.name for p in settings_from(["c=/c"], {}, env).policies] == ["c"]


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ([], "no policy given"),
        (["a b=/x"], "'a b' cannot name a policy"),
        (["=/x"], "'' cannot name a policy"),
        (["/"], "'' cannot name a policy"),
        ([".hidden=/x"], "'.hidden' cannot name a policy"),
        (["ü=/x"], "cannot name a policy"),
        (["a=/x", "a=/y"], "two policies named 'a': /x and /y"),
        (["/x/a", "a=/y"], "two policies named 'a': /x/a and /y"),
    ],
)
def test_policies_that_cannot_be_named_are_refused(listed, says):
    with pytest.raises(SettingsError) as caught:
        settings_from(listed, {}, {})
    assert says in str(caught.value)


def test_misspelled_variables_are_found():
    env = {"POLICY_SERVER_PROT": "1", "POLICY_SERVER_PORT": "1", "POLICY_SERVER_POLICIES": "", "HOME": "/"}
    assert unknown_variables(env) == ["POLICY_SERVER_PROT"]


def test_help_names_default_and_variable_of_every_option():
    parser = argparse.ArgumentParser()
    add_options(parser)
    text = " ".join(parser.format_help().split())
    for setting in all_settings():
        assert (variable(setting.name) in text) is not setting.metadata["secret"]


def test_a_url_of_another_kind_is_refused_and_not_shown():
    with pytest.raises(SettingsError, match="redis://") as refused:
        settings_from(["/p"], parsed(), {variable("session_url"): "http://:password@host"})
    assert "password" not in str(refused.value)
    with pytest.raises(SettingsError, match="redis://") as refused:
        settings_from(["/p"], parsed(), {variable("session_url"): "redis://:pass/word@host/0"})
    assert "pass/word" not in str(refused.value)


# Secrets in files


@pytest.mark.parametrize("name", ["admin_token", "data_token", "session_url"])
def test_a_secret_may_stand_in_a_file(tmp_path, name):
    (tmp_path / "secret").write_text(f"  {SECRETS[name]}\n")
    env = {f"{variable(name)}_FILE": str(tmp_path / "secret")}
    assert getattr(settings_from(["p=/p"], parsed(), env), name) == SECRETS[name]
    assert unknown_variables(env) == []


def test_only_a_secret_may(tmp_path):
    (tmp_path / "port").write_text("9000")
    env = {"POLICY_SERVER_PORT_FILE": str(tmp_path / "port")}
    assert settings_from(["p=/p"], parsed(), env).port == 8000
    assert unknown_variables(env) == ["POLICY_SERVER_PORT_FILE"]


def test_no_file_is_named_by_an_empty_text():
    assert settings_from(["p=/p"], parsed(), {"POLICY_SERVER_DATA_TOKEN_FILE": ""}).data_token == ""


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read: No such file"), (b" \n", "is empty"), (b"\xff\xfe", "it is no text")]
)
def test_a_file_without_a_secret_is_an_error_and_not_an_open_server(tmp_path, content, says):
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(SettingsError, match=f"POLICY_SERVER_DATA_TOKEN_FILE is .*{says}"):
        settings_from(["p=/p"], parsed(), {"POLICY_SERVER_DATA_TOKEN_FILE": str(tmp_path / "token")})


def test_a_token_and_a_file_with_one_are_an_error(tmp_path):
    (tmp_path / "token").write_text("a")
    env = {"POLICY_SERVER_ADMIN_TOKEN": "b", "POLICY_SERVER_ADMIN_TOKEN_FILE": str(tmp_path / "token")}
    with pytest.raises(SettingsError, match="are both set: expected one of them"):
        settings_from(["p=/p"], parsed(), env)


def test_a_url_in_a_file_that_is_none_is_not_shown(tmp_path):
    (tmp_path / "url").write_text("http://password@x")
    with pytest.raises(SettingsError, match="POLICY_SERVER_SESSION_URL_FILE is no URL") as caught:
        settings_from(["p=/p"], parsed(), {"POLICY_SERVER_SESSION_URL_FILE": str(tmp_path / "url")})
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("name", ["session_url", "fleet_url"])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h/0?foo=secret", "has the option 'foo', expected one of client_name, db, "),
        ("redis://h/0?decode_responses=1", "has the option 'decode_responses'"),
        ("redis://h/0?retry=3", "has the option 'retry'"),
        ("redis://h/0?ssl_cert_reqs=none", "has the option 'ssl_cert_reqs'"),
        ("unix:///s?socket_keepalive=1", "has the option 'socket_keepalive'"),
        ("redis://h/0?socket_timeout=secret", "has an option socket_timeout that is not a number of seconds above 0"),
        ("redis://h/0?socket_timeout=nan", "that is not a number of seconds above 0"),
        ("redis://h/0?socket_connect_timeout=-1", "that is not a number of seconds above 0"),
        ("redis://h/0?db=x", "has an option db that is not a number from 0"),
        ("redis://h/0?health_check_interval=2.5", "that is not a whole number of seconds from 0"),
        ("redis://h/0?max_connections=0", "that is not a number from 1"),
        ("redis://h/0?protocol=9", "that is not 2 or 3"),
        ("redis://h/0?socket_keepalive=perhaps", "that is not true or false"),
        ("rediss://h/0?ssl_cert_reqs=some", "that is not none, optional or required"),
    ],
)
def test_an_option_that_no_redis_url_has_is_named_and_no_value_is_shown(name, url, says):
    with pytest.raises(SettingsError) as caught:
        settings_from(["p=/p"], parsed(), {variable(name): url})
    assert str(caught.value).startswith(f"{variable(name)} {says}" if says.startswith("has") else variable(name))
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://:p%3F@h:1/3",
        "redis://h?db=2&socket_timeout=0.5&client_name=a%20b&retry_on_timeout=yes&health_check_interval=30&protocol=3",
        "redis://h?socket_connect_timeout=1&socket_keepalive=1&max_connections=20&username=u&password=p",
        "rediss://h?ssl_cert_reqs=required&ssl_ca_certs=/ca&ssl_ca_path=/cas&ssl_check_hostname=no&ssl_ciphers=x"
        "&ssl_certfile=/c&ssl_keyfile=/k&ssl_password=p",
        "unix:///run/redis?db=1&socket_timeout=2&password=p",
    ],
)
def test_every_option_that_is_allowed_is_one_that_redis_takes(url):
    from redis.asyncio import Redis

    assert settings_from(["p=/p"], parsed(), {"POLICY_SERVER_FLEET_URL": url}).fleet_url == url
    pool = Redis.from_url(url).connection_pool
    pool.connection_class(**pool.connection_kwargs)


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({}, True),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, True),
    ],
)
def test_opentelemetrys_variables_can_switch_traces_off(variables, sent):
    assert traces_are_sent(settings_from(["p=/p"], {"traces": True}, {}), variables) is sent
    assert not traces_are_sent(settings_from(["p=/p"], {}, {}), variables)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin', expected otlp or none"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', expected http/protobuf"),
    ],
)
def test_a_way_to_send_traces_that_there_is_not_is_refused(variables, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        traces_are_sent(settings_from(["p=/p"], {"traces": True}, {}), variables)
