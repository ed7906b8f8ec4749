// Puts this browser on an account, as one of its devices.

import { device, enrol } from "./device.js";
import { reason } from "./refusal.js";

const element = (id) => document.getElementById(id);

async function start() {
  const known = await device();
  if (known) {
    done(known);
    return;
  }
  // A link may bring the code, in the part that is sent nowhere.
  element("code").value = new URLSearchParams(location.hash.slice(1)).get("code") ?? "";
  history.replaceState(null, "", location.pathname);
  element("enrol").addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = element("enrol").querySelector("button");
    button.disabled = true;
    element("error").textContent = "";
    try {
      done(await enrol(element("code").value.trim(), element("label").value.trim()));
      element("added").focus();
    } catch (error) {
      element("error").textContent = reason(error);
    }
    button.disabled = false;
  });
}

function done(known) {
  element("enrol").hidden = true;
  element("done").hidden = false;
  element("account").textContent = known.account;
  element("name").textContent = known.label;
}

start();
