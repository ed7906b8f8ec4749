// The first terminal: asks for a payment, shows what is paid and the code, and how it ends.

import { micros, show } from "./details.js";
import { ask, device, hexadecimal, sha256, token } from "./device.js";
import { listen } from "./notices.js";
import { reason } from "./refusal.js";
import { generate } from "./vendor/lean-qr.mjs";

const element = (id) => document.getElementById(id);
const GESTURES = { swipe: "swipe over", tap: "tap", lift: "lift" };
const STATES = {
  waiting: ["", "Waiting for you"],
  pushed: ["", "Sent to your other device"],
  opened: ["", "Open on your other device"],
  held: ["", "Being paid"],
  authorised: ["good", "Agreed; the payee takes it"],
  captured: ["good", "Paid"],
  declined: ["bad", "Not paid: you said no"],
  voided: ["bad", "Cancelled: nothing was paid"],
  expired: ["bad", "Too late: nothing was paid"],
  blocked: ["bad", "Blocked after wrong attempts: nothing was paid"],
};
const OPEN = ["waiting", "pushed", "opened", "held"];

let known;
let payment;

async function start() {
  known = await device();
  if (!known) {
    element("stranger").hidden = false;
    return;
  }
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const name of ["payee", "amount", "currency", "message"])
    element(name).value = asked.get(name) ?? "";
  element("ask").hidden = false;
  element("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    request().catch(complain);
  });
  addEventListener("hashchange", () => location.reload()); // another payment
  element("cancel").addEventListener("click", () => cancel().catch(complain));
  let polling = null;
  listen(known, heard, (troubled) => {
    clearInterval(polling);
    polling = troubled ? poll() : null;
  });
}

async function request() {
  element("error").textContent = "";
  const code = token();
  const button = element("ask").querySelector("button");
  button.disabled = true;
  try {
    payment = await ask(known, "POST", "/push-payments", {
      first_terminal: known.id,
      payee: element("payee").value,
      amount: micros(element("amount").value),
      unit: `${element("currency").value}/1000000`,
      // The server makes words up where there are none.
      ...(element("message").value && { binding_message: element("message").value }),
      // The code itself stays here: whoever brings it to the server has seen this screen.
      code_digest: hexadecimal(await sha256(new TextEncoder().encode(code))),
    });
  } finally {
    button.disabled = false;
  }
  element("ask").hidden = true;
  element("payment").hidden = false;
  show(element("details"), payment);
  if (payment.opening !== "direct") draw(code);
  update();
  element("what").focus();
}

function draw(code) {
  const page = new URL("payment.html", location.href);
  page.hash = new URLSearchParams({ payment: payment.id, code });
  generate(page.href).toCanvas(element("code").querySelector("canvas"), {
    scale: 6, on: [0, 0, 0, 255], off: [255, 255, 255, 255], padX: 4, padY: 4,
  });
}

function heard(kind, what) {
  if (kind !== "push-payment" || what.id !== payment?.id) return;
  payment.state = what.state;
  update();
}

/** Asks by itself while no notices come, no more often than the server likes. */
function poll() {
  return setInterval(() => {
    if (payment && OPEN.includes(payment.state))
      ask(known, "GET", `/push-payments/${payment.id}`)
        .then((now) => heard("push-payment", now))
        .catch(() => {});
  }, 5000);
}

function update() {
  const [mood, text] = STATES[payment.state];
  element("state").className = `state ${mood}`;
  element("state").textContent = text;
  element("next").textContent = next();
  element("code").hidden = payment.opening === "direct" || payment.state !== "pushed";
  element("cancel").hidden = !OPEN.includes(payment.state);
}

function next() {
  if (payment.state === "waiting") return `Now ${GESTURES[payment.gesture]} your other device.`;
  if (payment.state === "pushed" && payment.opening === "scan")
    return "Open the scanner there, and scan this code.";
  if (payment.state === "pushed" && payment.opening === "either")
    return "Open it there, or scan this code.";
  return "";
}

async function cancel() {
  payment.state = (await ask(known, "POST", `/push-payments/${payment.id}/void`, {})).state;
  update();
}

function complain(error) {
  element("error").textContent = reason(error);
}

start();
