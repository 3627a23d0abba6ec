/**
 * The extension page's side: `window.runner`.
 *
 *     <script src="../../../client.js"></script>
 *     <script src="app.js" defer></script>
 *
 *     const { path } = await runner.ready;
 *     const response = await runner.fetch("/notes", { method: "POST", body: { text: "Hi" } });
 *     if (response.ok) show(await response.json());
 *
 * The relative address leads from `ext-ui/{extension}/{hash}/index.html` to the gateway's
 * `client.js`, wherever the gateway is mounted. The page runs in a sandbox: it has no cookies, no
 * storage, and its forms are not submitted; everything goes through the page that shows it.
 *
 * Pages made for AlgaPSA, which know only window messages, work when they load this script first:
 * what arrives for them is repeated as window messages.
 */
(() => {
  "use strict";

  const VERSION = "1";
  const ANSWER = "apiproxy_response";
  const pending = new Map();
  let port = null;
  let host = null; // origin of the page that shows this one
  let lastId = 0;
  let lastHeight = 0;
  let settle;

  /** A call that got no answer. An answer of any status is a response, not an error. */
  class RunnerError extends Error {
    constructor(message) {
      super(message);
      this.name = "RunnerError";
    }
  }

  const ready = new Promise((resolve, reject) => (settle = { resolve, reject }));
  ready.catch(() => null); // a page that never asks is not to blame

  const envelope = (type, payload, request_id) => ({
    alga: true,
    version: VERSION,
    type,
    request_id,
    payload,
  });

  const isEnvelope = (data) => Boolean(data) && data.alga === true && data.version === VERSION;

  const send = (type, payload, id) => port && port.postMessage(envelope(type, payload, id));

  /** @param {Uint8Array} bytes @returns {string} base64 */
  function toBase64(bytes) {
    const pieces = [];
    // An argument list has a length limit, so the bytes go in slices.
    for (let at = 0; at < bytes.length; at += 32768) {
      pieces.push(String.fromCharCode.apply(null, bytes.subarray(at, at + 32768)));
    }
    return btoa(pieces.join(""));
  }

  /** @param {string} text base64 @returns {Uint8Array} */
  const fromBase64 = (text) => Uint8Array.from(atob(text || ""), (c) => c.charCodeAt(0));

  /**
   * What `fetch` may be given as a body, as bytes and their type.
   *
   * @param {string|ArrayBuffer|ArrayBufferView|object|null|undefined} body
   * @returns {{bytes: Uint8Array, type: string}|null} null when there is no body
   */
  function encode(body) {
    if (body === undefined || body === null) return null;
    const text = (value, type) => ({ bytes: new TextEncoder().encode(value), type });
    if (typeof body === "string") return text(body, "text/plain; charset=utf-8");
    if (body instanceof ArrayBuffer) return { bytes: new Uint8Array(body), type: "application/octet-stream" };
    if (ArrayBuffer.isView(body)) {
      const bytes = new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
      return { bytes, type: "application/octet-stream" };
    }
    return text(JSON.stringify(body), "application/json");
  }

  /** The answer of a handler: the part of the platform's Response that pages use. */
  class RunnerResponse {
    constructor({ status = 200, headers = {}, body = "" }) {
      this.status = status;
      this.ok = status >= 200 && status < 300;
      this.headers = new Headers(headers);
      this._body = body;
    }

    /** @returns {Promise<Uint8Array>} */
    async bytes() {
      return fromBase64(this._body);
    }

    /** @returns {Promise<string>} */
    async text() {
      return new TextDecoder().decode(await this.bytes());
    }

    /** @returns {Promise<*>} */
    async json() {
      return JSON.parse(await this.text());
    }
  }

  /**
   * Calls the extension's handler as the signed-in user.
   *
   * @param {string} path begins with "/", may have a query
   * @param {{method?: string, headers?: Object<string, string>, body?: *}} [options] a plain
   *   object as body is sent as JSON
   * @returns {Promise<RunnerResponse>}
   * @throws {RunnerError} when the call could not be made
   */
  async function call(path, { method = "GET", headers = {}, body } = {}) {
    await ready;
    const content = encode(body);
    const fields = Object.fromEntries(new Headers(headers));
    if (content && !fields["content-type"]) fields["content-type"] = content.type;
    const payload = { route: path, method, headers: fields };
    if (content) payload.body = toBase64(content.bytes);
    const id = `runner-${(lastId += 1)}`;
    return new Promise((resolve, reject) => {
      pending.set(id, { resolve, reject });
      send("apiproxy", payload, id);
    });
  }

  function onAnswer(id, payload) {
    const { resolve, reject } = pending.get(id);
    pending.delete(id);
    if (payload.error) reject(new RunnerError(payload.error));
    else resolve(new RunnerResponse(payload));
  }

  function onBootstrap({ theme_tokens = {}, navigation = {} }) {
    const style = document.documentElement.style;
    for (const [name, value] of Object.entries(theme_tokens)) style.setProperty(name, value);
    settle.resolve({ path: navigation.path || "/", theme: theme_tokens });
    watchHeight();
  }

  /** For pages that listen to window messages, as those of AlgaPSA do. */
  function repeat(data) {
    const init = { data, origin: host, source: window.parent };
    window.dispatchEvent(new MessageEvent("message", init));
  }

  function receive(data) {
    if (!isEnvelope(data)) return;
    if (data.type === ANSWER && pending.has(data.request_id)) {
      onAnswer(data.request_id, data.payload);
      return;
    }
    if (data.type === "bootstrap") onBootstrap(data.payload);
    repeat(data);
  }

  function onPort(event) {
    const offered = isEnvelope(event.data) && event.data.type === "port" && event.ports[0];
    if (!offered || event.source !== window.parent) return;
    window.removeEventListener("message", onPort);
    host = event.origin;
    port = offered;
    port.onmessage = (message) => receive(message.data);
  }

  /**
   * Tells the host how high this page is. Happens by itself when the content changes.
   *
   * @param {number} [height] in CSS pixels; default the height of the document
   */
  function resize(height = document.documentElement.getBoundingClientRect().height) {
    const whole = Math.ceil(height);
    if (whole === lastHeight) return;
    lastHeight = whole;
    send("resize", { height: whole });
  }

  let watching = false;
  function watchHeight() {
    if (watching) return;
    watching = true;
    const root = document.documentElement;
    new ResizeObserver(() => resize()).observe(root);
    // Browsers let the observer of sizes sleep while the frame is out of sight; changes are told.
    const changes = { subtree: true, childList: true, characterData: true, attributes: true };
    new MutationObserver(() => setTimeout(resize)).observe(root, changes);
  }

  /** Asks the host page to go to one of its own paths; the host decides. */
  const navigate = (path) => send("navigate", { path });

  /**
   * @type {{ready: Promise<{path: string, theme: Object<string, string>}>}}
   */
  window.runner = Object.freeze({ ready, fetch: call, resize, navigate, Error: RunnerError });

  if (window.parent === window) {
    settle.reject(new RunnerError("This page belongs to an extension and works inside its host page."));
  } else {
    window.addEventListener("message", onPort);
    // Nothing but "here I am", hence any receiver will do.
    window.parent.postMessage(envelope("ready", {}), "*");
  }
})();
