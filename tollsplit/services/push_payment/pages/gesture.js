// A person's gesture: a finger that swipes or taps, or the phone lifted up. It calls a payment to
// this screen; it proves nothing about who made it.

const SWIPE_PIXELS = 60;
const TAP_PIXELS = 12;
const TOUCH_MS = 800;
// Picking a phone up takes a tenth of a second at more than this; a table that is bumped rings
// both ways and for less.
const LIFT_ACCELERATION = 1.5; // m/s², against gravity
const LIFT_MS = 100;
const LIFT_PAUSE_MS = 2000;

/** Calls heard("swipe" | "tap") for each that a finger or a mouse makes on an element. */
export function touches(element, heard) {
  let start = null;
  element.addEventListener("pointerdown", (event) => {
    start = event.isPrimary ? { x: event.clientX, y: event.clientY, at: event.timeStamp } : null;
    element.classList.toggle("felt", start !== null);
    if (start) element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointercancel", () => {
    start = null;
    element.classList.remove("felt");
  });
  element.addEventListener("pointerup", (event) => {
    element.classList.remove("felt");
    if (!start || !event.isPrimary) return;
    const far = Math.hypot(event.clientX - start.x, event.clientY - start.y);
    const soon = event.timeStamp - start.at < TOUCH_MS;
    start = null;
    if (soon && far >= SWIPE_PIXELS) heard("swipe");
    else if (soon && far <= TAP_PIXELS) heard("tap");
  });
  // A keyboard's or a screen reader's press comes as a click without a finger.
  element.addEventListener("click", (event) => {
    if (event.detail === 0) heard("tap");
  });
}

/** Calls heard("lift") each time that the device is lifted up. */
export function lifts(heard) {
  let rising = null;
  let last = -Infinity;
  window.addEventListener("devicemotion", (event) => {
    const upwards = against(event.acceleration, event.accelerationIncludingGravity);
    if (upwards < LIFT_ACCELERATION) rising = null;
    else rising ??= event.timeStamp;
    if (rising === null || event.timeStamp - rising < LIFT_MS) return;
    if (event.timeStamp - last < LIFT_PAUSE_MS) return;
    last = event.timeStamp;
    heard("lift");
  });
}

/** The acceleration against gravity, whichever way the device lies; m/s². */
function against(acceleration, withGravity) {
  if (acceleration?.x == null || withGravity?.x == null) return 0;
  const axes = ["x", "y", "z"];
  const gravity = axes.map((axis) => withGravity[axis] - acceleration[axis]);
  const length = Math.hypot(...gravity);
  if (!length) return 0;
  return axes.reduce((sum, axis, n) => sum + acceleration[axis] * gravity[n], 0) / length;
}

/** Some phones measure only after they were asked for it by a touch. */
export async function allowLifts() {
  if (typeof DeviceMotionEvent?.requestPermission === "function")
    await DeviceMotionEvent.requestPermission().catch(() => "denied");
}
