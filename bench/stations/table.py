"""Which function belongs to which station, in the order in which a request comes to them."""

from __future__ import annotations

RECEIVE, HEAD, DECODE, CHECK, SESSION = "receive", "head", "decode", "check", "session"
QUEUE, LEASE, FILL, ENGINE = "queue", "lease", "fill", "engine"
ENCODE, COUNT, SEND = "encode", "count", "send"

WHAT = {
    RECEIVE: "from the client's bytes in the socket to `data_received`: a turn of the loop, epoll, recv",
    HEAD: "the head, which is known from the request before; the object of the request",
    DECODE: "the body → numbers in arrays (of JSON one row or few: checked as well)",
    CHECK: "what decoding did not check; the options; the job",
    SESSION: "the session's record: found, compared, and stored again with the answer",
    QUEUE: "to the batch: at once, or in the next turn of the loop where requests do not come one at a time",
    LEASE: "the version that serves; the batch; the results to those who wait",
    FILL: "the inputs that were left out; which calls the batch takes",
    ENGINE: "LiteRT: inputs in, the call, outputs out",
    ENCODE: "the outputs → the body",
    COUNT: "metrics",
    SEND: "the head of the answer, and from `write` to the client's socket",
}

FUNCTIONS = {
    "app.api.protocol:FastPathProtocol.data_received": HEAD,
    "app.api.request_cycle:RequestCycle.ask": QUEUE,
    "app.inputs.validate:InputValidator.read": CHECK,
    "app.inputs.typed:TypedDecoder.read": DECODE,
    "app.inputs.typed:TypedDecoder.read_binary": DECODE,
    "app.wire.codecs:Codec.decode_any": DECODE,
    "app.sessions.reading:SessionReader.read_step": DECODE,
    "app.sessions.sessions:Sessions.step_at_once": SESSION,
    "app.inference.request_parser:RequestParser.request": CHECK,
    "app.batching.batcher:Batcher.compute": QUEUE,
    "app.batching.batcher:Batcher._run": LEASE,
    "app.batching.batch:compute": FILL,
    "app.engine.litert:LiteRTEngine.run": ENGINE,
    "app.metrics:PolicyMetrics.batch": COUNT,
    "app.batching.batcher:Batcher._deliver": LEASE,
    "app.api.request_cycle:RequestCycle.set_result": ENCODE,
    "app.sessions.memory_step:MemoryStep.answer": SESSION,
    "app.inference.response:ResponseTemplate.json": ENCODE,
    "app.metrics:DataMetrics.answered": COUNT,
    "app.api.writer:AnswerWriter.write_answer": SEND,
    "app.api.writer:AnswerWriter.write": SEND,
}
