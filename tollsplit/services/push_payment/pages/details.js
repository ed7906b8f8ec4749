// What is paid, the same words on every screen.

const MICROS = 6;

/** An amount in millionths as a person writes it: at least two decimals, never a rounded one. */
export function money(micros, unit) {
  const currency = unit.split("/")[0];
  const digits = String(micros).padStart(MICROS + 1, "0");
  const whole = digits.slice(0, -MICROS).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const decimals = digits.slice(-MICROS).replace(/0{1,4}$/, "");
  return `${whole}.${decimals}\u00a0${currency}`;
}

/** The millionths that a text of the form 12.34 stands for; null where it is another. */
export function micros(text) {
  const found = /^(\d{1,10})(?:\.(\d{1,6}))?$/.exec(text.trim());
  return found ? Number(found[1] + (found[2] ?? "").padEnd(MICROS, "0")) : null;
}

/** Puts amount, payee and binding message into a <dl>. Text stays text. */
export function show(list, payment) {
  list.replaceChildren(
    term("amount-name", "Amount"),
    value("amount", money(payment.amount, payment.unit)),
    term("", "To"),
    value("payee", payment.payee),
    term("", "Compare"),
    value("message", payment.binding_message),
  );
}

function term(name, text) {
  const element = document.createElement("dt");
  element.className = name;
  element.textContent = text;
  return element;
}

function value(name, text) {
  const element = document.createElement("dd");
  element.className = name;
  element.textContent = text;
  return element;
}
