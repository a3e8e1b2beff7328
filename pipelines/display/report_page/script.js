"use strict";
const cards = [...document.querySelectorAll(".card")];
const buttons = [...document.querySelectorAll("[data-kind]")];
const search = document.querySelector("#search");
const told = document.querySelector("#told");
const words = cards.map((card) => card.textContent.toLowerCase());
const more = document.querySelector("#more");
let kind = "all";
let most = 12;

function show() {
  const wanted = search.value.trim().toLowerCase();
  let fitting = 0;
  cards.forEach((card, index) => {
    const fits = (kind === "all" || card.dataset.kinds.split(" ").includes(kind)) && words[index].includes(wanted);
    fitting += fits ? 1 : 0;
    card.hidden = !fits || fitting > most;
  });
  const count = Math.min(fitting, most);
  buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.kind === kind)));
  told.textContent = `${count} of ${cards.length} pictures shown`;
  document.querySelector("#nothing").hidden = count > 0;
  more.hidden = count === fitting;
  more.textContent = `Show all ${fitting}`;
}

if (search) {
  buttons.forEach((button) => button.addEventListener("click", () => { kind = button.dataset.kind; show(); }));
  search.addEventListener("input", show);
  more.addEventListener("click", () => {
    const next = cards.filter((card) => !card.hidden).length;
    most = cards.length;
    show();
    const shown = cards.filter((card) => !card.hidden);
    shown[next].tabIndex = -1;
    shown[next].focus({ preventScroll: true });
  });
  const marks = document.querySelector("#marks");
  marks.addEventListener("click", () => {
    const hidden = document.querySelector(".gallery").classList.toggle("unmarked");
    marks.setAttribute("aria-pressed", String(!hidden));
  });
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
