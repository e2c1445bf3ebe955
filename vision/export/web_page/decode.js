// From an image file to its pixels, as the browser decodes it.

const STRIP = 2 ** 22; // pixels that are read at once: phones limit the size of a canvas

// Returns { bitmap, data, width, height }: the decoded image, and its RGBA bytes over white. EXIF
// orientation is applied; color profiles are not, as in training. Throws if the browser cannot
// decode the Blob.
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const data = new Uint8ClampedArray(4 * width * height);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, rows];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    data.set(context.getImageData(0, 0, width, count).data, 4 * width * top);
  }
  return { bitmap, data, width, height };
}
