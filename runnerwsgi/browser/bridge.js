/**
 * The host page's side: `<runner-extension>` shows an extension in a sandboxed frame
 * and carries the frame's calls to the extension's handler.
 *
 *     <script src="/runner/bridge.js" defer></script>
 *     <runner-extension extension="demo.notes" path="/"></runner-extension>
 *
 * Attributes
 *   extension  id of the extension, required. Calls go to this extension, whatever the frame says.
 *   path       what the extension's page is told to show; default "/".
 *   label      accessible title of the frame; default the extension's id.
 *   src, api   address of the page and of the handler calls. When `src` is absent, both are
 *              asked for at `extensions/{extension}` beside this script.
 *
 * What the element contains is shown only where this script did not load.
 *
 * Events (they bubble)
 *   runner-ready     the extension's page is connected.
 *   runner-navigate  the page asks the host to go somewhere: `event.detail.path`.
 *   runner-error     the extension cannot be shown: `event.detail.message`.
 *
 * Theme: the custom properties in THEME_TOKENS, as computed for the element, reach the page.
 *
 * Rules (protocol section 6, security section 1): the frame never gets `allow-same-origin`; a
 * message counts only when its source is this frame's own window; data leaves through a
 * MessagePort, never through postMessage(…, "*"); a frame that navigates away is cut off.
 */
(() => {
  "use strict";

  const VERSION = "1";
  const SANDBOX = "allow-scripts";
  const SANDBOX_OPTIONS = ["allow-forms", "allow-modals", "allow-downloads", "allow-popups"];
  const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
  const SAFE_METHODS = ["GET", "HEAD"];

  const REQUEST_HEADERS = [
    "accept",
    "accept-language",
    "content-type",
    "idempotency-key",
    "if-modified-since",
    "if-none-match",
  ];
  const RESPONSE_HEADERS = [
    "content-disposition",
    "content-language",
    "content-type",
    "etag",
    "last-modified",
    "location",
    "retry-after",
    "server-timing",
    "x-request-id",
  ];
  const OWN_HEADERS = "x-ext-";

  const THEME_TOKENS = [
    "--runner-accent",
    "--runner-accent-text",
    "--runner-background",
    "--runner-border",
    "--runner-danger",
    "--runner-font",
    "--runner-muted",
    "--runner-radius",
    "--runner-surface",
    "--runner-text",
    "color-scheme",
  ];

  const HEIGHT = { least: 100, most: 4000 };
  const MAX_CALLS = 6; // at once, a browser's own number of connections to one host
  const MAX_WAITING = 100;
  const MAX_BODY_BYTES = 1048576; // the gateway's default, see RUNNER_MAX_BODY_BYTES
  const MAX_ROUTE = 8192;
  const MAX_RETRIES = 2;
  const NOT_EXECUTED = ["overloaded", "backend-starting", "quarantined"];
  const MOST_PATIENCE_MS = 5000;
  const SILENCE_MS = 1500; // a page that is still not connected gets its address checked

  const TEXTS = {
    loading: "Loading the extension…",
    retry: "Try again",
    left: "The extension left its own page and was closed.",
    unreachable: "The server cannot be reached. Check your connection and try again.",
    refused: "The address of this extension is not usable. Ask whoever looks after this site.",
    other: "This extension is not available right now.",
    401: "Sign in to use this extension.",
    403: "You may not use this extension.",
    404: "This extension is not installed.",
    502: "This extension cannot be started right now.",
    503: "Extensions are busy or still starting. Try again shortly.",
    504: "This extension took too long to answer.",
  };

  const STYLE = `
    :host { display: block; position: relative; color: inherit; }
    :host([hidden]) { display: none; }
    iframe { display: block; inline-size: 100%; border: 0; background: transparent; }
    iframe.waiting { position: absolute; inset-block-start: 0; visibility: hidden; }
    .status { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; min-block-size: 6rem;
      padding: 1rem; box-sizing: border-box; color: var(--runner-muted, inherit);
      font: inherit; font-family: var(--runner-font, inherit); }
    .status[hidden] { display: none; }
    .status[data-state="loading"]::before { content: ""; inline-size: 1em; block-size: 1em;
      border: 2px solid currentColor; border-inline-end-color: transparent; border-radius: 50%;
      animation: turn .8s linear infinite; }
    .status[data-state="error"] { border: 1px solid var(--runner-border, currentColor);
      border-radius: var(--runner-radius, 8px); color: var(--runner-text, inherit); }
    p { margin: 0; flex: 1 1 12rem; }
    button { font: inherit; padding: .4rem .9rem; cursor: pointer; color: inherit;
      background: transparent; border: 1px solid currentColor;
      border-radius: var(--runner-radius, 8px); }
    button:focus-visible { outline: 2px solid var(--runner-accent, currentColor); outline-offset: 2px; }
    @keyframes turn { to { transform: rotate(1turn); } }
    @media (prefers-reduced-motion: reduce) { .status::before { animation: none; } }
  `;

  // A module has no currentScript: then the element that loaded it is found by its name.
  const script = document.currentScript || document.querySelector('script[src*="/bridge.js"]');
  const BASE = new URL(".", (script && script.src) || document.baseURI);

  /** @returns {boolean} whether `data` is an envelope of the protocol's version */
  const isEnvelope = (data) =>
    typeof data === "object" &&
    data !== null &&
    data.alga === true &&
    data.version === VERSION &&
    typeof data.type === "string";

  const isObject = (value) => typeof value === "object" && value !== null;

  const clamp = (number, { least, most }) => Math.min(most, Math.max(least, number));

  const pause = (ms, signal) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, ms);
      signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)));
    });

  /** What a page is told about its own mistake. Any other failure is only "the call failed". */
  class Refusal extends Error {}

  /** @param {string} text base64 @returns {Uint8Array} */
  function fromBase64(text) {
    let raw;
    try {
      raw = atob(text);
    } catch {
      throw new Refusal("the body is not base64");
    }
    return Uint8Array.from(raw, (character) => character.charCodeAt(0));
  }

  /** @param {ArrayBuffer} buffer @returns {string} base64 */
  function toBase64(buffer) {
    const bytes = new Uint8Array(buffer);
    const pieces = [];
    // An argument list has a length limit, so the bytes go in slices.
    for (let at = 0; at < bytes.length; at += 32768) {
      pieces.push(String.fromCharCode.apply(null, bytes.subarray(at, at + 32768)));
    }
    return btoa(pieces.join(""));
  }

  /** A path of the extension's own: absolute, without a host, and not climbing out. */
  function isRoute(route) {
    return (
      typeof route === "string" &&
      route.length <= MAX_ROUTE &&
      route.startsWith("/") &&
      !/[\u0000-\u0020\u007f\\#]/.test(route) &&
      // URL parsers take %2e for a dot.
      !/\/(\.|%2e){1,2}(\/|$)/i.test(route.split("?")[0])
    );
  }

  /** The address of a call. The last check is the one that a parser's surprises cannot pass. */
  function callUrl(api, route) {
    if (!isRoute(route)) {
      throw new Refusal('the route must begin with "/" and stay inside the extension');
    }
    const url = new URL(api.href + route);
    if (url.origin !== api.origin || !url.pathname.startsWith(`${api.pathname}/`)) {
      throw new Refusal("the route leaves the extension");
    }
    return url;
  }

  function callMethod(method) {
    // Pages of AlgaPSA leave the method out and mean POST.
    const name = method === undefined ? "POST" : String(method).toUpperCase();
    if (!METHODS.includes(name)) throw new Refusal(`the method must be one of ${METHODS.join(", ")}`);
    return name;
  }

  function callHeaders(headers, hasBody) {
    const kept = new Headers(hasBody ? { "content-type": "application/octet-stream" } : {});
    for (const [name, value] of Object.entries(isObject(headers) ? headers : {})) {
      const lower = name.toLowerCase();
      if (REQUEST_HEADERS.includes(lower) || lower.startsWith(OWN_HEADERS)) kept.set(lower, value);
    }
    return kept;
  }

  function callBody(body, method, most) {
    if (body === undefined || body === null) return undefined;
    if (SAFE_METHODS.includes(method)) throw new Refusal(`a ${method} call has no body`);
    if (typeof body !== "string") throw new Refusal("the body must be base64 text");
    // Before decoding, so that a huge text costs nothing; four letters are three bytes.
    if (body.length > Math.ceil(most / 3) * 4) throw new Refusal(`the body is over ${most} bytes`);
    const bytes = fromBase64(body);
    if (bytes.length > most) throw new Refusal(`the body is over ${most} bytes`);
    return bytes;
  }

  /** The page's `apiproxy` payload as a URL and what `fetch` takes. */
  function toRequest(payload, mount, signal) {
    const call = isObject(payload) ? payload : {};
    const method = callMethod(call.method);
    const body = callBody(call.body, method, mount.maxBodyBytes);
    const init = {
      method,
      body,
      signal,
      headers: callHeaders(call.headers, body !== undefined),
      credentials: "same-origin",
      mode: "same-origin",
      redirect: "error", // a redirect would spend the user's credentials where nobody looked
      cache: "no-store",
    };
    return [callUrl(mount.api, call.route), init];
  }

  async function toPayload(response) {
    const headers = {};
    response.headers.forEach((value, name) => {
      if (RESPONSE_HEADERS.includes(name) || name.startsWith(OWN_HEADERS)) headers[name] = value;
    });
    return { status: response.status, headers, body: toBase64(await response.arrayBuffer()) };
  }

  /** What the server says of a call that may simply be made again, or null. */
  async function refusalOf(response, method) {
    if (response.status !== 503 || !response.headers.has("retry-after")) return null;
    const found = await response.clone().json().catch(() => null);
    const problem = isObject(found) ? found : {};
    const mayRepeat = SAFE_METHODS.includes(method) || NOT_EXECUTED.includes(problem.code);
    return mayRepeat ? problem : null;
  }

  function patience(response, attempt) {
    const seconds = Number(response.headers.get("retry-after"));
    const asked = Number.isFinite(seconds) ? seconds * 1000 : 1000;
    // Many pages were refused at the same moment: spread their return.
    return Math.min(MOST_PATIENCE_MS, asked + Math.random() * 250 * (attempt + 1));
  }

  async function fetchPatiently(url, init) {
    for (let attempt = 0; ; attempt += 1) {
      const response = await fetch(url, init);
      const refusal = attempt < MAX_RETRIES ? await refusalOf(response, init.method) : null;
      if (!refusal) return response;
      // What an ingress sent twice may have been executed all the same: this key tells.
      const key = refusal.idempotency_key;
      if (typeof key === "string") init.headers.set("idempotency-key", key);
      await pause(patience(response, attempt), init.signal);
    }
  }

  /** Lets so many tasks run at once; the others wait in line. */
  function limiter(most, mostWaiting) {
    const waiting = [];
    let running = 0;
    const enter = () => {
      if (running < most) return void (running += 1);
      if (waiting.length >= mostWaiting) throw new Refusal("too many calls at once");
      return new Promise((resolve) => waiting.push(resolve));
    };
    // The place of a finished task goes to the next in line, so that nobody slips in between.
    const leave = () => (waiting.length ? waiting.shift()() : (running -= 1));
    return async (task) => {
      await enter();
      try {
        return await task();
      } finally {
        leave();
      }
    };
  }

  /**
   * Connects one frame: hands its page a port and answers what comes through it.
   *
   * `page` is told: `bootstrap()` (asked for the page's first message), `ready()`,
   * `resize(payload)`, `navigate(payload)` and `left()`.
   */
  class Bridge {
    /**
     * @param {HTMLIFrameElement} frame not yet in the document, so that no message is missed
     * @param {{api: URL, maxBodyBytes: number}} mount where the calls go
     * @param {Object<string, function>} page
     */
    constructor(frame, mount, page) {
      this._frame = frame;
      this._mount = mount;
      this._page = page;
      this._port = null;
      this._loads = 0;
      this._end = new AbortController();
      this._limited = limiter(MAX_CALLS, MAX_WAITING);
      this._receivers = new Map([
        ["ready", () => this._onReady()],
        ["apiproxy", (payload, id) => this._onCall(payload, id)],
        ["resize", (payload) => page.resize(payload)],
        ["navigate", (payload) => page.navigate(payload)],
      ]);
      const { signal } = this._end;
      frame.addEventListener("load", () => this._onLoad(), { signal });
      window.addEventListener("message", (event) => this._onWindowMessage(event), { signal });
    }

    get connected() {
      return this._port !== null;
    }

    close() {
      this._end.abort();
      if (this._port) this._port.close();
      this._port = null;
    }

    bootstrap() {
      this._send("bootstrap", this._page.bootstrap());
    }

    _send(type, payload, request_id) {
      const envelope = { alga: true, version: VERSION, type, request_id, payload };
      if (this._port) this._port.postMessage(envelope);
    }

    _onLoad() {
      this._loads += 1;
      if (this._loads > 1) this._onLeft();
    }

    _onLeft() {
      if (this._end.signal.aborted) return;
      this.close();
      this._page.left();
    }

    _onWindowMessage(event) {
      // The origin says nothing: every sandboxed page's is "null".
      if (event.source === this._frame.contentWindow) this._receive(event.data);
    }

    _receive(data) {
      const receiver = isEnvelope(data) && this._receivers.get(data.type);
      if (receiver) receiver(isObject(data.payload) ? data.payload : {}, data.request_id);
    }

    _onReady() {
      const first = !this._port;
      if (first) this._handOver();
      this.bootstrap();
      if (first) this._page.ready();
    }

    _handOver() {
      const channel = new MessageChannel();
      this._port = channel.port1;
      this._port.onmessage = (event) => this._receive(event.data);
      this._port.addEventListener("close", () => this._onLeft()); // the page's document is gone
      // A sandboxed page has no origin that could be named: so "*", and nothing but the port.
      const envelope = { alga: true, version: VERSION, type: "port" };
      this._frame.contentWindow.postMessage(envelope, "*", [channel.port2]);
    }

    async _onCall(payload, id) {
      try {
        this._send("apiproxy_response", await this._limited(() => this._call(payload)), id);
      } catch (error) {
        const text = error instanceof Refusal ? error.message : "the call could not be made";
        this._send("apiproxy_response", { error: text }, id);
      }
    }

    async _call(payload) {
      const [url, init] = toRequest(payload, this._mount, this._end.signal);
      return toPayload(await fetchPatiently(url, init));
    }
  }

  /** What went wrong, in words for the person in front of the page. */
  class Unavailable extends Error {
    /** @param {number|string} reason a status or another key of TEXTS */
    constructor(reason) {
      super(TEXTS[reason] || TEXTS.other);
    }
  }

  async function ask(url, init) {
    let response;
    try {
      response = await fetchPatiently(url, init);
    } catch (error) {
      if (init.signal.aborted) throw error;
      throw new Unavailable("unreachable");
    }
    if (!response.ok) throw new Unavailable(response.status);
    return response;
  }

  /** Where the page and the handler of an extension are, for whoever is signed in. */
  async function lookUp(extension, signal) {
    const url = new URL(`extensions/${encodeURIComponent(extension)}`, BASE);
    const headers = { accept: "application/json" };
    return (await ask(url, { method: "GET", headers, signal, credentials: "same-origin" })).json();
  }

  /** The server's description, checked: nothing but plain addresses and known permissions. */
  function toMount(found) {
    const ui = new URL(found.ui, BASE);
    const api = new URL(found.api.replace(/\/+$/, ""), document.baseURI);
    if (!/^https?:$/.test(ui.protocol) || api.origin !== location.origin) throw new Unavailable("refused");
    const asked = Array.isArray(found.sandbox) ? found.sandbox : [];
    const options = SANDBOX_OPTIONS.filter((option) => asked.includes(option));
    const maxBodyBytes = found.max_body_bytes || MAX_BODY_BYTES;
    return { ui, api, maxBodyBytes, sandbox: [SANDBOX, ...options].join(" ") };
  }

  function makeFrame(mount, title, query) {
    const frame = document.createElement("iframe");
    const url = new URL(mount.ui);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    // Before src: what a frame may do is decided when it begins to load.
    frame.setAttribute("sandbox", mount.sandbox);
    frame.setAttribute("referrerpolicy", "no-referrer");
    frame.setAttribute("part", "frame");
    frame.className = "waiting"; // laid out but not seen, so that the page can measure itself
    frame.title = title;
    frame.style.height = `${HEIGHT.least}px`;
    frame.src = url.href;
    return frame;
  }

  function makeStatus(onRetry) {
    const status = document.createElement("div");
    status.className = "status";
    status.setAttribute("part", "status");
    const text = document.createElement("p");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = TEXTS.retry;
    button.addEventListener("click", onRetry);
    status.append(text, button);
    return status;
  }

  function setStatus(status, state, text) {
    status.dataset.state = state;
    status.hidden = state === "shown";
    status.setAttribute("role", state === "error" ? "alert" : "status");
    status.querySelector("p").textContent = text;
    status.querySelector("button").hidden = state !== "error";
  }

  function shadow(element) {
    const root = element.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet(); // unlike a <style>, no page's CSP forbids it
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet];
    return root;
  }

  class RunnerExtension extends HTMLElement {
    static get observedAttributes() {
      return ["extension", "src", "api", "path"];
    }

    constructor() {
      super();
      this._root = shadow(this);
      this._status = makeStatus(() => this.reload());
      this._root.append(this._status);
      this._dark = window.matchMedia("(prefers-color-scheme: dark)");
      this._onScheme = () => this.refreshTheme();
    }

    connectedCallback() {
      this._dark.addEventListener("change", this._onScheme);
      this.reload();
    }

    disconnectedCallback() {
      this._dark.removeEventListener("change", this._onScheme);
      this._stop();
    }

    attributeChangedCallback(name, before, after) {
      if (this.isConnected && before !== after) this.reload();
    }

    get path() {
      return this.getAttribute("path") || "/";
    }

    get extension() {
      return this.getAttribute("extension") || "";
    }

    /** Loads the extension anew. Called by the element itself when an attribute changes. */
    reload() {
      this._stop();
      this._end = new AbortController();
      setStatus(this._status, "loading", TEXTS.loading);
      this._load(this._end.signal).catch((error) => this._fail(error));
    }

    /** Sends the theme's tokens again. Call it after switching the host page's theme. */
    refreshTheme() {
      if (this._bridge) this._bridge.bootstrap();
    }

    _stop() {
      if (this._end) this._end.abort();
      if (this._bridge) this._bridge.close();
      if (this._frame) this._frame.remove();
      this._bridge = this._frame = null;
    }

    async _load(signal) {
      await null; // attributes that are set together cause one load
      if (signal.aborted) return;
      const mount = toMount(this._described() || (await lookUp(this.extension, signal)));
      if (!signal.aborted) this._show(mount, signal);
    }

    _described() {
      const ui = this.getAttribute("src");
      return ui && { ui, api: this.getAttribute("api") || `/api/ext/${this.extension}` };
    }

    _show(mount, signal) {
      const query = { path: this.path, extensionId: this.extension };
      const title = this.getAttribute("label") || this.extension;
      const frame = makeFrame(mount, title, query);
      this._frame = frame;
      this._bridge = new Bridge(frame, mount, {
        bootstrap: () => this._bootstrap(),
        ready: () => this._onReady(),
        resize: ({ height }) => this._onResize(height),
        navigate: ({ path }) => this._onNavigate(path),
        left: () => this._fail(new Unavailable("left")),
      });
      frame.addEventListener("load", () => this._onLoad(mount, signal), { once: true, signal });
      this._root.append(frame);
    }

    async _onLoad(mount, signal) {
      // Not every page connects; but one that stays silent may be an error message.
      await pause(SILENCE_MS, signal).catch(() => null);
      if (signal.aborted || this._bridge.connected) return;
      await ask(mount.ui, { method: "HEAD", signal, credentials: "omit" }).then(
        () => this._reveal(),
        (error) => this._fail(error),
      );
    }

    _onReady() {
      this._reveal();
      this._emit("runner-ready", {});
    }

    _onResize(height) {
      if (Number.isFinite(height)) this._frame.style.height = `${Math.ceil(clamp(height, HEIGHT))}px`;
    }

    _onNavigate(path) {
      if (isRoute(path) && !path.startsWith("//")) this._emit("runner-navigate", { path });
    }

    _reveal() {
      this._frame.classList.remove("waiting");
      setStatus(this._status, "shown", "");
    }

    _fail(error) {
      if (error.name === "AbortError") return;
      this._stop();
      const message = error instanceof Unavailable ? error.message : TEXTS.other;
      setStatus(this._status, "error", message);
      this._emit("runner-error", { message });
    }

    _emit(name, detail) {
      const event = { bubbles: true, composed: true, detail: { extension: this.extension, ...detail } };
      this.dispatchEvent(new CustomEvent(name, event));
    }

    _bootstrap() {
      return {
        // Calls travel through this bridge: a page has no session of its own to hold.
        session: { token: "", expires_at: null },
        theme_tokens: this._theme(),
        navigation: { path: this.path },
      };
    }

    _theme() {
      const style = getComputedStyle(this);
      const pairs = THEME_TOKENS.map((name) => [name, style.getPropertyValue(name).trim()]);
      return Object.fromEntries(pairs.filter(([, value]) => value));
    }
  }

  if (!customElements.get("runner-extension")) {
    customElements.define("runner-extension", RunnerExtension);
  }
})();
