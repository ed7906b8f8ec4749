// Runs in the page itself: notices that it calls the system's payment interface.
"use strict";

(() => {
  if (!("PaymentRequest" in window)) {
    return;
  }
  const show = PaymentRequest.prototype.show;
  PaymentRequest.prototype.show = function (...given) {
    document.dispatchEvent(new CustomEvent("tollsplit-payment-request"));
    return show.apply(this, given);
  };
})();
