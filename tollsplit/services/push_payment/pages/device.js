// This device: an Ed25519 key that the browser made and never gives away, and requests that it
// signs (RFC 9421). Script can use the key, not read it.

const SIGNED_FOR_S = 20;

/** The device that this browser is, or null: { id, key, account, label, … }. */
export function device() {
  return stored("readonly", (store) => store.get("device")).then((found) => found ?? null);
}

function stored(mode, work) {
  return new Promise((done, fail) => {
    const opening = indexedDB.open("tollsplit", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("device");
    opening.onerror = () => fail(opening.error);
    opening.onsuccess = () => {
      const database = opening.result;
      const asked = work(database.transaction("device", mode).objectStore("device"));
      asked.transaction.oncomplete = () => {
        database.close();
        done(asked.result);
      };
      asked.transaction.onabort = () => fail(asked.transaction.error);
    };
  });
}

/** Makes a key that cannot be taken out of the browser and puts this device on the account that a
 * token of the operator's is for. */
export async function enrol(token, label) {
  const keys = await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
  const octets = new Uint8Array(await crypto.subtle.exportKey("raw", keys.publicKey));
  const key = { id: inUrl(await sha256(octets)), key: keys.privateKey };
  const registered = await ask(key, "POST", "/devices", {
    token, public_key: hexadecimal(octets), label,
  });
  const found = { ...registered, ...key };
  await stored("readwrite", (store) => store.put(found, "device"));
  return found;
}

export const sha256 = (octets) => crypto.subtle.digest("SHA-256", octets);
export const hexadecimal = (octets) =>
  [...new Uint8Array(octets)].map((octet) => octet.toString(16).padStart(2, "0")).join("");
const base64 = (octets) => btoa(String.fromCharCode(...new Uint8Array(octets)));
const inUrl = (octets) =>
  base64(octets).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
/** 128 random bits that a URL takes as they are. */
export const token = () => inUrl(crypto.getRandomValues(new Uint8Array(16)));

/** Sends a signed request. An answer that got lost is asked for again with the same key: what was
 * done once is told, not done twice. */
export async function ask(known, method, path, body, key = token()) {
  const attempt = () => send(known, method, path, body, key);
  const answer = await attempt().catch(() => attempt());
  const read = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Refusal(answer.status, read);
  return read;
}

/** A refusal of the server's, as RFC 9457 has it. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? problem?.title ?? `The server answered ${status}.`);
    this.status = status;
    this.kind = String(problem?.type ?? "").split("/").at(-1);
    this.problem = problem;
  }
}

/** The signed request itself, for who reads the answer as it comes. */
export async function send(known, method, path, body, key, more = {}, signal = undefined) {
  const url = new URL(path, location.origin).href;
  const headers = { ...more };
  const covered = [["@method", method], ["@target-uri", url]];
  let content;
  if (body !== undefined) {
    content = new TextEncoder().encode(JSON.stringify(body));
    const digest = base64(await sha256(content));
    headers["Content-Type"] = "application/json";
    headers["Content-Digest"] = `sha-256=:${digest}:`;
    covered.push(["content-digest", headers["Content-Digest"]]);
  }
  if (method !== "GET") {
    headers["Idempotency-Key"] = key;
    covered.push(["idempotency-key", key]);
  }
  const created = Math.floor(Date.now() / 1000);
  const names = covered.map(([name]) => `"${name}"`).join(" ");
  const parameters =
    `(${names});created=${created};expires=${created + SIGNED_FOR_S}` +
    `;nonce="${token()}";keyid="${known.id}";tag="tollsplit"`;
  const lines = covered.map(([name, text]) => `"${name}": ${text}`);
  const base = [...lines, `"@signature-params": ${parameters}`].join("\n");
  const signed = await crypto.subtle.sign(
    "Ed25519", known.key, new TextEncoder().encode(base));
  headers["Signature-Input"] = `tollsplit=${parameters}`;
  headers["Signature"] = `tollsplit=:${base64(signed)}:`;
  return fetch(url, { method, headers, body: content, signal, cache: "no-store" });
}
