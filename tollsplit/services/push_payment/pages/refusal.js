// What a refusal means to the person in front of the screen.

import { Refusal } from "./device.js";

const MEANINGS = {
  "not-authenticated": "That did not work. Check the secret and try again.",
  "nothing-waits": "No payment waits for that here.",
  "other-account": "That device is not on your account. Nothing was sent.",
  "wrong-code": "Scan the code that your other device shows.",
  "not-found": "There is no such payee or payment here.",
  "overdraft": "The account does not cover this.",
  "altered": "This is not what your other device asked for. Nothing was paid.",
  "expired": "Too late. Ask for the payment anew.",
  "wrong-state": "That cannot be done any more.",
  "forbidden": "This code is used or is none. Ask your operator for a new one.",
  "unsigned": "This device is not known here any more, or its clock is wrong.",
  "too-many-requests": "Too fast. Wait a moment and try again.",
};

export function reason(error) {
  if (!(error instanceof Refusal)) return "The server cannot be reached. Try again.";
  return MEANINGS[error.kind] ?? `The server refuses it: ${error.message}.`;
}
