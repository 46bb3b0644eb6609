// Reads server-sent events from a stream of bytes. EventSource would do it, but cannot send a token.

/** Calls `take(event, data)` for each event, and `alive()` whatever comes; returns at the end of the stream. */
export async function readEvents(body, take, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const { event, data } = fieldsOf(block);
      if (data) take(event, JSON.parse(data, onlyOwn));
    }
  }
}

/** Objects have no names but their own: a policy may be called "constructor". */
function onlyOwn(_, value) {
  const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
  return isObject ? Object.setPrototypeOf(value, null) : value;
}

function fieldsOf(block) {
  const found = { event: "message", data: "" };
  for (const line of block.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (name === "event") found.event = value;
    else if (name === "data") found.data += value;
  }
  return found;
}
