// Starts the page if the browser has what it needs, and says in a sentence what is missing
// otherwise. An old browser has to understand this file too: it is not a module, and its JavaScript
// is that of 2009.
(function () {
  "use strict";
  // a function with an instruction on 128 bits
  var simd = [
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253,
    15, 253, 98, 11
  ];
  var update = " Update it, or take a recent Chrome, Edge, Firefox or Safari.";

  function missing() {
    if (location.protocol === "file:") {
      return "A browser runs this page only from a web server: run “python -m http.server” in " +
        "its folder, and open localhost:8000 here.";
    }
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(simd))) {
      return "This browser cannot run the model: it lacks WebAssembly with SIMD." + update;
    }
    if (!HTMLScriptElement.supports || !HTMLScriptElement.supports("importmap")) {
      return "This browser cannot run the page: it lacks import maps." + update;
    }
    if (typeof createImageBitmap !== "function") {
      return "This browser cannot decode images for the model: it lacks createImageBitmap." +
        update;
    }
    return "";
  }

  var sentence = missing();
  if (sentence) {
    var status = document.getElementById("status");
    status.textContent = sentence;
    status.className = "message bad";
    document.getElementById("zone").style.display = "none"; // what it offers would not work
    return;
  }
  var script = document.createElement("script");
  script.type = "module";
  script.src = "page.js";
  document.head.appendChild(script);
})();
