// Holds the page together while the server cannot be reached. Gradio (6.31) would show a toast,
// answer nothing any more, and load the page anew as soon as a server is there: the picture and all
// that was set would be gone.
//
// What Gradio asks for waits here until there is a server again, and what the old one still owed ends
// without an answer. The page hears "cxr:lost" and "cxr:back", and `data-owed` on Stop says that the
// server owes the viewer an answer. A break is noticed at once, also where nothing is asked or owed:
// Gradio's heartbeat ends with the connection.
(() => {
  const EVERY_MS = 2000, UNREACHED = [502, 504]; // of a proxy; 503 is Gradio's own
  const fetchNow = window.fetch.bind(window);
  const owed = new Map(); // id of an event that was joined -> its function in Gradio's config
  let joining = 0; // what is just being asked
  const answered = new Set(); // events of those that were answered before their names were known
  let back = null; // while there is no server: a promise of one
  let heartbeat = null; // address of one that has ended

  const functionOf = (index) => window.gradio_config?.dependencies?.find(({ id }) => id === index);
  const viewerId = () => window.gradio_config?.components?.find(({ props }) => props?.elem_id === "cxr-viewer")?.id;

  function tellOwed() {
    const isOwed = [...owed.values()].some((asked) => asked?.outputs.includes(viewerId()));
    for (const stop of document.querySelectorAll(".cxr-stop")) stop.toggleAttribute("data-owed", isOwed);
  }

  // The part of an address behind Gradio's prefix, such as "queue/join"; null elsewhere.
  function doorOf(address) {
    const { origin, pathname } = new URL(address, location.href), prefix = "/gradio_api/", at = pathname.indexOf(prefix);
    return origin === location.origin && at >= 0 ? { door: pathname.slice(at + prefix.length), root: pathname.slice(0, at + prefix.length) } : null;
  }

  const isThere = (answer) => !UNREACHED.includes(answer.status);

  function untilBack(root) {
    const wait = async () => {
      window.dispatchEvent(new Event("cxr:lost"));
      for (;;) {
        await new Promise((done) => setTimeout(done, EVERY_MS));
        if (await fetchNow(`${root}app_id`, { cache: "no-store" }).then(isThere, () => false)) break;
      }
      back = null;
      beat(); // first: a server keeps nothing for a tab without one
      window.dispatchEvent(new Event("cxr:back"));
    };
    return (back ??= wait());
  }

  // An answer, however long it takes until there is a server.
  async function answerTo(input, init, root) {
    const signal = init?.signal ?? (input instanceof Request ? input.signal : null);
    for (;;) {
      if (back) await back;
      try {
        const answer = await fetchNow(input instanceof Request ? input.clone() : input, init);
        if (isThere(answer)) return answer;
      } catch (error) {
        if (signal?.aborted) throw error;
      }
      await untilBack(root);
    }
  }

  // The heartbeat, by which a server knows when its tab closes, is open before this script is read, so
  // the browser is asked when one ends. By whatever it was ended: the server has taken the tab for
  // closed, and may have forgotten its image.
  new PerformanceObserver((ended) => {
    for (const { name, responseStatus } of ended.getEntries()) {
      const found = doorOf(name);
      if (!found?.door.startsWith("heartbeat/") || responseStatus >= 400) continue;
      heartbeat = name;
      untilBack(found.root);
    }
  }).observe({ type: "resource" });

  function beat() {
    if (heartbeat) fetchNow(heartbeat).then(async (answer) => { for await (const _ of chunksOf(answer)); }, () => {});
    heartbeat = null;
  }

  // A stream of answers. A server closes it once it owes nothing, and Gradio (6.31) would not read the
  // answer to what was asked in that moment: the next stream follows on. Where it ends otherwise, broken
  // off or with a word of a server that stops or knows nothing of this tab, what is owed ends: with
  // outputs that change nothing. However it ends, Gradio must be told, or it asks for no other stream.
  async function* answers(answer, nextAnswer, root) {
    const encoder = new TextEncoder();
    let isClosed = true;
    while (isClosed) {
      isClosed = false;
      let isBroken = false;
      for await (const lines of linesOf(answer)) {
        const kept = lines.filter((line) => {
          const [, told] = /^data:.*"msg": ?"(process_completed|unexpected_error|close_stream)"/.exec(line) ?? [];
          if (told === "close_stream") return !(isClosed = true);
          const { event_id: event } = told ? JSON.parse(line.slice(5)) : {};
          if (event && !owed.delete(event) && joining) answered.add(event);
          return !told || event || !(isBroken = true);
        });
        tellOwed();
        yield encoder.encode(kept.map((line) => `${line}\n`).join(""));
        if (isBroken) break;
      }
      if (!isClosed || (!owed.size && !joining)) break;
      answer = await nextAnswer();
    }
    if (owed.size) untilBack(root);
    const messages = [...owed].map(([event_id, asked]) => {
      const data = (asked?.outputs ?? []).map(() => ({ __type__: "update" }));
      return { msg: "process_completed", event_id, success: true, output: { data, is_generating: false } };
    });
    owed.clear();
    tellOwed();
    for (const message of [...messages, { msg: "close_stream" }]) yield encoder.encode(said(message));
  }

  const said = (message) => `data: ${JSON.stringify(message)}\n\n`;

  async function* linesOf(answer) {
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of chunksOf(answer)) {
      text += decoder.decode(chunk, { stream: true });
      const lines = text.split("\n");
      text = lines.pop();
      yield lines;
    }
  }

  // What a server sends until it ends or is gone, which is the same here.
  async function* chunksOf(answer) {
    const reader = answer.body.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        yield value;
      }
    } catch (error) {
      if (error.name === "AbortError") throw error; // Gradio itself has closed it
    } finally {
      reader.cancel().catch(() => {}); // of what broke off there is nothing to cancel
    }
  }

  function streamed({ status, headers }, chunks) {
    const body = new ReadableStream({
      async pull(controller) {
        const { done, value } = await chunks.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: () => chunks.return(),
    });
    return new Response(body, { status, headers });
  }

  window.fetch = async (input, init) => {
    const found = doorOf(input instanceof Request ? input.url : input);
    if (!found) return fetchNow(input, init);
    const { door, root } = found, isJoining = door === "queue/join";
    joining += isJoining;
    try {
      const answer = await answerTo(input, init, root);
      if (!answer.ok || !answer.body) return answer;
      if (door === "queue/data") return streamed(answer, answers(answer, () => answerTo(input, init, root), root));
      if (isJoining) {
        const { event_id: event } = await answer.clone().json();
        if (!answered.delete(event)) owed.set(event, functionOf(JSON.parse(init.body).fn_index));
        tellOwed();
      }
      return answer;
    } finally {
      joining -= isJoining;
    }
  };
})();
