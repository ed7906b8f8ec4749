// The camera as a reader of QR codes. jsQR, a script of its own, is there as a global.

const LOOK_MS = 120;
// What jsQR looks at: a code that fills a third of it has four pixels for each of its modules.
const SIDE_PIXELS_MAX = 640;

/** Shows the camera in a video element and reads until accept(text) says that a code is the one
 * that is looked for, or the signal is aborted. Throws where there is no camera. */
export async function scan(video, accept, signal) {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: { facingMode: "environment" },
    audio: false,
  });
  try {
    video.srcObject = stream;
    await video.play();
    await look(video, accept, signal);
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  }
}

async function look(video, accept, signal) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  while (!signal.aborted) {
    const scale = Math.min(1, SIDE_PIXELS_MAX / Math.max(video.videoWidth, video.videoHeight, 1));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    if (canvas.width && canvas.height) {
      context.drawImage(video, 0, 0, canvas.width, canvas.height);
      const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
      const found = window.jsQR(data, width, height, { inversionAttempts: "dontInvert" });
      if (found && accept(found.data)) return;
    }
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}
