// The payment's page: what is paid to whom, and the only place where somebody agrees to it.

import { money, show } from "./details.js";
import { ask, device } from "./device.js";
import { listen } from "./notices.js";
import { reason } from "./refusal.js";

const element = (id) => document.getElementById(id);
const ENDS = {
  authorised: ["good", "You have agreed. The payee takes the money."],
  captured: ["good", "Paid"],
  declined: ["", "Not paid"],
  voided: ["bad", "Cancelled: nothing was paid"],
  expired: ["bad", "Too late: nothing was paid"],
  blocked: ["bad", "Blocked after wrong attempts: nothing was paid"],
};
const asked = new URLSearchParams(location.hash.slice(1));
const path = `/push-payments/${encodeURIComponent(asked.get("payment") ?? "")}`;

let known;
let payment;

async function start() {
  known = await device();
  if (!known) {
    location.replace("enrol.html");
    return;
  }
  const code = asked.get("code");
  payment = await ask(known, "POST", `${path}/open`, code === null ? {} : { code });
  // The code has done its work; it stays in no history.
  history.replaceState(null, "", `#payment=${payment.id}`);
  show(element("details"), payment);
  element("payment").hidden = false;
  element("confirm").textContent = `Pay ${money(payment.amount, payment.unit)}`;
  element("pay").addEventListener("submit", (event) => {
    event.preventDefault();
    once(pay);
  });
  element("decline").addEventListener("click", () => once(decline));
  element("title").textContent = "Is this right?";
  update();
  element("title").focus();
  listen(known, heard);
}

/** It may end elsewhere: cancelled, or too late. */
function heard(kind, what) {
  if (kind !== "push-payment" || what.id !== payment.id) return;
  if (!ENDS[what.state] || ENDS[payment.state]) return;
  payment = what;
  update();
}

/** Nothing is pressed twice while the first is on its way. */
async function once(work) {
  const buttons = [element("confirm"), element("decline")];
  for (const button of buttons) button.disabled = true;
  element("error").textContent = "";
  try {
    await work();
  } catch (error) {
    await refused(error);
  }
  for (const button of buttons) button.disabled = false;
}

async function pay() {
  if (payment.state === "opened") payment = await ask(known, "POST", `${path}/hold`, {});
  const { payee, amount, unit, binding_message } = payment;
  payment = await ask(known, "POST", `${path}/authorise`, {
    secret: element("secret").value, payee, amount, unit, binding_message,
  });
  update();
}

async function decline() {
  payment = await ask(known, "POST", `${path}/decline`, {});
  update();
}

async function refused(error) {
  element("error").textContent = reason(error);
  element("secret").value = "";
  element("secret").focus();
  // It may be over: blocked, expired, or cancelled from the other side.
  payment = await ask(known, "GET", path).catch(() => payment);
  update();
}

function update() {
  const end = ENDS[payment.state];
  element("pay").hidden = Boolean(end);
  element("compare").hidden = Boolean(end);
  if (!end) return;
  element("secret").value = "";
  element("title").textContent = payment.state === "captured" ? "Thank you" : "This payment is over";
  element("state").className = `state ${end[0]}`;
  element("state").textContent = end[1];
  element("title").focus();
}

start().catch((error) => {
  element("trouble").textContent = reason(error);
});
