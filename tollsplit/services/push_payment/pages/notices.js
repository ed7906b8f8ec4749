// Notices of the server as they come. EventSource cannot sign its request, so the stream is read
// here; what was missed comes after Last-Event-ID.

import { send } from "./device.js";

const PAUSE_MS = 1000;
const PAUSE_MS_MAX = 30000;

/** Calls heard(kind, what) for each notice, for as long as the page is open. */
export async function listen(known, heard, troubled = () => {}) {
  let last = "";
  let pause = PAUSE_MS;
  let open;
  // A page that is left may be kept for a while; its stream would be one too many.
  addEventListener("pagehide", () => open.abort());
  for (;;) {
    open = new AbortController();
    try {
      const more = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const answer = await send(
        known, "GET", "/notices/stream", undefined, "", more, open.signal);
      if (answer.ok) {
        troubled(false);
        pause = PAUSE_MS;
        for await (const event of events(answer.body)) {
          last = event.id ?? last;
          if (event.data) heard(event.event, JSON.parse(event.data));
        }
      } else troubled(true);
    } catch {
      troubled(true);
    }
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(2 * pause, PAUSE_MS_MAX);
  }
}

/** The events of a text/event-stream (HTML, 9.2.6), of which ours are a part: no lone CR. */
async function* events(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield fields(block);
  }
}

function fields(block) {
  const event = {};
  for (const line of block.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "data" && "data" in event) event.data += `\n${value}`;
    else if (name) event[name] = value;
  }
  return event;
}
