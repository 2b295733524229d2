// The stream of snapshots: read with fetch(), so that a token can go along in a header, which EventSource cannot do.
//
//   connecting --200--> live --5 s without news--> stale --15 s--> lost --+
//        ^  |             |                                               |
//        |  +--401, 403--> denied, until a token is given                 |
//        +------------------ after a pause, longer each time -------------+
//
// While the page is hidden nothing is read, so a forgotten tab costs the node nothing.

const STALE_MS = 5_000;   // five snapshots late
const GIVE_UP_MS = 15_000; // the connection may be half dead: a new one finds out
const PAUSE_MS = 1_000, PAUSE_MOST_MS = 10_000;
const TOKEN_KEY = "tallyslice-token";

export class Live {
  #show; #state; #denied;
  #lastId = null; #heardAt = 0; #pause = PAUSE_MS; #stream = null; #wake = () => {}; #now = null;

  constructor({ onSnapshot, onState, onDenied }) {
    this.#show = onSnapshot;
    this.#state = onState;
    this.#denied = onDenied;
    setInterval(() => this.#look(), 500);
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#stream?.abort();
      else this.#again();
    });
    addEventListener("online", () => this.#again());
  }

  useToken(token) {
    sessionStorage.setItem(TOKEN_KEY, token);
    this.#again();
  }

  async run() {
    for (;;) {
      if (document.hidden) await this.#sleep(Infinity);
      try {
        if (!(await this.#read())) continue;
      } catch {
        this.#say("lost");
      }
      // A little by chance, so that not all pages come back in the same moment.
      await this.#sleep(this.#pause * (1 + Math.random() / 2));
      this.#pause = Math.min(this.#pause * 2, PAUSE_MOST_MS);
    }
  }

  // Whether to pause before the next try.
  async #read() {
    this.#stream = new AbortController();
    const headers = { Accept: "text/event-stream" };
    const token = sessionStorage.getItem(TOKEN_KEY);
    if (token) headers.Authorization = `Bearer ${token}`;
    if (this.#lastId) headers["Last-Event-ID"] = this.#lastId;
    this.#heardAt = Date.now(); // from now on an answer is due
    const response = await fetch("live", { headers, cache: "no-store", signal: this.#stream.signal });
    if (response.status === 401 || response.status === 403) {
      sessionStorage.removeItem(TOKEN_KEY);
      this.#say("denied");
      this.#denied(response.status === 401 && !token ? "none" : response.status === 403 ? "scope" : "wrong");
      await this.#sleep(Infinity);
      return false;
    }
    if (!response.ok) throw new Error(`status ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      // Should several have gathered, the newest is all that counts.
      const last = events.length ? this.#parse(events) : null;
      if (last) {
        this.#heardAt = Date.now();
        this.#pause = PAUSE_MS;
        this.#say("live");
        this.#show(JSON.parse(last));
      }
    }
    return true;
  }

  // Of the forms that server-sent events allow, those that our node writes: one line per field, \n at its end.
  #parse(events) {
    let newest = null;
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map((line) => {
        const colon = line.indexOf(": ");
        return [line.slice(0, colon), line.slice(colon + 2)];
      }));
      if (fields.retry) this.#pause = Number(fields.retry);
      if (fields.event) continue; // "leave": the stream ends here, and reading it says so
      if (fields.id) this.#lastId = fields.id;
      newest = fields.data;
    }
    return newest;
  }

  #look() {
    const age = Date.now() - this.#heardAt;
    if (document.hidden || this.#now === "denied" || !this.#heardAt) return;
    if (age > GIVE_UP_MS) {
      this.#stream?.abort();
      this.#heardAt = Date.now();
    }
    if (this.#now === "live" && age > STALE_MS) this.#say("stale");
  }

  #say(state) {
    this.#now = state;
    this.#state(state);
  }

  #again() {
    this.#pause = PAUSE_MS;
    this.#wake();
  }

  #sleep(ms) {
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (ms !== Infinity) setTimeout(resolve, ms);
    });
  }
}
