"use strict";
const cards = [...document.querySelectorAll(".card")];
const buttons = [...document.querySelectorAll("[data-kind]")];
const search = document.querySelector("#search");
const numShown = document.querySelector("#num-shown");
const texts = cards.map((card) => card.textContent.toLowerCase());
const more = document.querySelector("#more");
let kind = "all";
let maxShown = 12;

function show() {
  const wanted = search.value.trim().toLowerCase();
  let matching = 0;
  cards.forEach((card, index) => {
    const matches = (kind === "all" || card.dataset.kinds.split(" ").includes(kind)) && texts[index].includes(wanted);
    matching += matches ? 1 : 0;
    card.hidden = !matches || matching > maxShown;
  });
  const count = Math.min(matching, maxShown);
  buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.kind === kind)));
  const total = Number(numShown.dataset.total);
  const sample = total > cards.length ? `, a sample of all ${total.toLocaleString("en")}` : "";
  numShown.textContent = `${count} of ${cards.length} pictures shown${sample}`;
  document.querySelector("#nothing").hidden = count > 0;
  more.hidden = count === matching;
  more.textContent = `Show all ${matching}`;
}

if (search) {
  buttons.forEach((button) => button.addEventListener("click", () => { kind = button.dataset.kind; show(); }));
  search.addEventListener("input", show);
  more.addEventListener("click", () => {
    const next = cards.filter((card) => !card.hidden).length;
    maxShown = cards.length;
    show();
    const shown = cards.filter((card) => !card.hidden);
    shown[next].tabIndex = -1;
    shown[next].focus({ preventScroll: true });
  });
  const marks = document.querySelector("#marks");
  marks?.addEventListener("change", () => document.querySelector(".gallery").classList.toggle("unmarked", !marks.checked));
  for (const row of document.querySelectorAll("[data-mark]")) {
    const view = row.closest(".card").querySelector(".view");
    const light = (on) => {
      view.classList.toggle("chosen", on);
      view.querySelector(`g.m${row.dataset.mark}`).classList.toggle("lit", on);
    };
    for (const event of ["mouseenter", "focus"]) row.addEventListener(event, () => light(true));
    for (const event of ["mouseleave", "blur"]) row.addEventListener(event, () => light(false));
  }
  show();
}
