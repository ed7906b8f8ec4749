// Runs beside the page: notices what speaks for a payment or a shop, and says so to background.js.
// What a page holds stays in it. Facts are told, and the address without what a query may hold.
"use strict";

const FACTS = {
  // HTML, "Autofill detail tokens"
  card_fields: "input[autocomplete~='cc-number'], input[autocomplete~='cc-csc']",
  product: "meta[property='og:type'][content^='product'], [itemtype$='schema.org/Product']",
  order: "[itemtype$='schema.org/Order'], [itemtype$='schema.org/Invoice']",
  checkout: "[itemtype$='schema.org/CheckoutPage']",
};
const TYPES = {Product: "product", Order: "order", Invoice: "order", CheckoutPage: "checkout"};
const told = new Set();
let leaving = false;

function types(value) {
  if (Array.isArray(value)) {
    return value.flatMap(types);
  }
  if (value === null || typeof value !== "object") {
    return [];
  }
  return [value["@type"], ...types(value["@graph"] ?? [])].flat();
}

function structured() {
  const found = [];
  for (const script of document.querySelectorAll("script[type='application/ld+json']")) {
    try {
      found.push(...types(JSON.parse(script.textContent)));
    } catch {
      // broken markup says nothing
    }
  }
  return found.map((type) => TYPES[type]).filter(Boolean);
}

function tell(facts, over) {
  const page = location.origin + location.pathname;
  chrome.runtime.sendMessage({page, facts, over}).catch(() => {});
}

function notice(facts) {
  const fresh = facts.filter((fact) => !told.has(fact));
  if (fresh.length && document.visibilityState === "visible") {
    fresh.forEach((fact) => told.add(fact));
    leaving = false;
    tell(fresh, false);
  }
}

function look() {
  const seen = Object.keys(FACTS).filter((fact) => document.querySelector(FACTS[fact]));
  notice([...new Set([...seen, ...structured()])]);
}

function leave() {
  if (told.size && !leaving) {
    leaving = true;
    told.clear();
    tell([], true);
  }
}

document.addEventListener("tollsplit-payment-request", () => notice(["payment_request"]));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") {
    look();
  } else {
    leave();
  }
});
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", look);

let pending = 0;
new MutationObserver(() => {
  clearTimeout(pending);
  pending = setTimeout(look, 200); // a page that builds itself is looked at when it rests
}).observe(document, {childList: true, subtree: true});
