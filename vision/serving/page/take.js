// Where an image comes from: a file, the clipboard, a drop or the camera.

const at = (id) => document.getElementById(id);
const isImage = (file) => !file.type || file.type.startsWith("image/");

// Calls use(blob) with each image that the reader gives, and refuse(sentence) for what cannot be
// one. The page has an <input type="file"> `file`, a place to drop `zone`, a button `camera`, and a
// <dialog> `viewfinder` with a <video> `video` and the buttons `shoot` and `close`.
export function takeImages(use, refuse) {
  function offer(files) {
    const file = [...files].find(isImage);
    if (file) use(file);
    else if (files.length) refuse("That is not an image.");
  }
  at("file").addEventListener("change", (event) => {
    offer(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    offer(event.clipboardData.files);
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      at("zone").classList.toggle("over", name === "dragover");
      if (name === "drop") offer(event.dataTransfer.files);
    });
  }
  at("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  at("camera").addEventListener("click", () => openCamera(refuse));
  at("shoot").addEventListener("click", () => shoot(use));
  at("close").addEventListener("click", () => at("viewfinder").close());
  at("viewfinder").addEventListener("close", closeCamera);
}

async function openCamera(refuse) {
  let stream;
  try {
    const video = { facingMode: "environment", width: { ideal: 1280 } };
    stream = await navigator.mediaDevices.getUserMedia({ video });
  } catch {
    return refuse("The camera cannot be used: it is missing, in use, or blocked for this page.");
  }
  closeCamera(); // opened by an earlier click on the button
  at("video").srcObject = stream;
  at("viewfinder").showModal();
  await at("video").play().catch(() => {});
}

function closeCamera() {
  at("video").srcObject?.getTracks().forEach((track) => track.stop());
  at("video").srcObject = null;
}

async function shoot(use) {
  const video = at("video");
  if (!video.videoWidth) return;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  at("viewfinder").close();
  await use(await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95)));
}
