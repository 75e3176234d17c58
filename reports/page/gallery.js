// Predictions over their photograph: the slider says how much of each is seen.
for (const gallery of document.querySelectorAll(".gallery")) {
  const controls = gallery.querySelector(".compare");
  const slider = controls.querySelector("[type=range]");
  const errors = controls.querySelector("[type=checkbox]");
  let under = 0;
  for (const strip of gallery.querySelectorAll(".strip")) {
    const photograph = strip.querySelector(".photograph");
    if (!photograph) continue;
    for (const stack of strip.querySelectorAll(".stack:has(.prediction)")) {
      const copy = photograph.cloneNode();
      copy.alt = "";
      stack.prepend(copy);
      under += 1;
    }
  }
  const hasErrors = gallery.querySelector(".stack .errors") !== null;
  slider.closest("label").hidden = under === 0;
  errors.closest("label").hidden = !hasErrors;
  controls.hidden = under === 0 && !hasErrors;
  slider.addEventListener("input", () => {
    for (const picture of gallery.querySelectorAll(".prediction, .errors")) picture.style.opacity = slider.value / 100;
  });
  errors.addEventListener("change", () => {
    gallery.classList.toggle("errors-alone", errors.checked);
  });
}
