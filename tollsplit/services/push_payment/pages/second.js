// The second terminal: shows what was pushed to it, calls payments by a gesture, scans codes.

import { show } from "./details.js";
import { ask, device } from "./device.js";
import { allowLifts, lifts, touches } from "./gesture.js";
import { listen } from "./notices.js";
import { reason } from "./refusal.js";
import { scan } from "./scanner.js";

const element = (id) => document.getElementById(id);
const payments = new Map(); // id → list item

let known;
let scanning = null;

async function start() {
  known = await device();
  element(known ? "known" : "stranger").hidden = false;
  if (!known) return;
  touches(element("pad"), (gesture) => {
    allowLifts();
    call(gesture);
  });
  lifts(() => call("lift"));
  for (const button of document.querySelectorAll("[data-gesture]"))
    button.addEventListener("click", () => call(button.dataset.gesture));
  element("scanner").addEventListener("click", toggle);
  listen(known, heard, (troubled) => {
    element("error").textContent = troubled ? "No connection. It is tried again." : "";
  });
}

/** Tells the server of a gesture; what it calls here arrives as a notice. */
async function call(gesture) {
  const felt = element("felt");
  try {
    await ask(known, "POST", "/push-payments/gestures", { gesture });
    felt.className = "state good";
    felt.textContent = `Felt: ${gesture}`;
  } catch (error) {
    felt.className = "state bad";
    felt.textContent = reason(error);
  }
}

// --- what was pushed --------------------------------------------------------------------

function heard(kind, payment) {
  if (kind !== "push-payment") return;
  payments.get(payment.id)?.remove();
  payments.delete(payment.id);
  const isOver = new Date(payment.expires_at) < new Date();
  if (["pushed", "opened", "held"].includes(payment.state) && !isOver) {
    payments.set(payment.id, item(payment));
    element("inbox").append(payments.get(payment.id));
    if (payment.opening === "direct" && payment.state === "pushed") openOnce(payment);
  }
  element("nothing").hidden = payments.size > 0;
}

const page = (payment) => `payment.html#payment=${encodeURIComponent(payment.id)}`;

/** Goes to a payment's page, where it still waits; who comes back from there stays here. */
async function openOnce(payment) {
  const name = `opened ${payment.id}`;
  if (sessionStorage.getItem(name) || document.hidden) return;
  // A notice may be an old one: what came after it is on its way.
  const now = await ask(known, "GET", `/push-payments/${payment.id}`).catch(() => payment);
  if (now.state !== "pushed") return;
  sessionStorage.setItem(name, "yes");
  location.assign(page(payment));
}

function item(payment) {
  const line = document.createElement("li");
  const list = document.createElement("dl");
  show(list, payment);
  line.append(list, payment.opening === "scan" ? scanButton() : link(payment));
  return line;
}

function link(payment) {
  const open = document.createElement("a");
  open.className = "button";
  open.href = page(payment);
  open.textContent = "Open";
  return open;
}

function scanButton() {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Scan the code";
  button.addEventListener("click", () => scanning || toggle());
  return button;
}

// --- the scanner ------------------------------------------------------------------------

async function toggle() {
  if (scanning) {
    scanning.abort();
    return;
  }
  scanning = new AbortController();
  const button = element("scanner");
  button.setAttribute("aria-expanded", "true");
  button.textContent = "Close the scanner";
  element("camera").hidden = false;
  tell("", "Hold the code of your other device into the frame.");
  button.scrollIntoView({ block: "end" });
  try {
    await scan(element("camera").querySelector("video"), accept, scanning.signal);
    if (scanning.signal.aborted) tell("", "");
  } catch {
    tell("bad", "There is no camera here, or it may not be used.");
  }
  scanning = null;
  element("camera").hidden = true;
  button.setAttribute("aria-expanded", "false");
  button.textContent = "Open the scanner";
}

/** Only a payment's page of this very server is opened, whatever a code says. */
function accept(text) {
  const url = URL.parse(text);
  const ours = new URL("payment.html", location.href);
  if (url?.origin !== ours.origin || url.pathname !== ours.pathname) {
    tell("bad", "This code is no payment of ours.");
    return false;
  }
  tell("good", "Read.");
  ours.hash = url.hash;
  location.assign(ours);
  return true;
}

function tell(mood, text) {
  element("seen").className = `state ${mood}`;
  element("seen").textContent = text;
}

start();
