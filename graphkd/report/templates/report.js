"use strict";
// Sorting and filtering of tables and charts, and drawing of the charts that come into view.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const filter = document.getElementById("filter");
const plots = all(".plot");
let figures = [];

const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

// A section's function that says whether a label is shown: checked in the legend, and found by the words of the filter.
const shownIn = (section) => {
  const unchecked = new Set(
    all(".legend label", section).filter((label) => !label.firstChild.checked).map((label) => label.dataset.label));
  return (label) => !unchecked.has(label) && matches(`${section.dataset.title} ${label}`);
};
const matches = (text) => filter.value.toLowerCase().split(/\s+/).every((word) => text.toLowerCase().includes(word));

const restrict = (section) => {
  const shown = shownIn(section);
  for (const element of all("[data-label]", section)) {
    element.hidden = element.closest(".legend")
      ? !matches(`${section.dataset.title} ${element.dataset.label}`) : !shown(element.dataset.label);
  }
  for (const plot of all(".plot", section)) {
    if (plot.data) Plotly.restyle(plot, { visible: plot.data.map((trace) => shown(trace.meta)) });
  }
};

const applyFilter = () => {
  let number = 0;
  for (const section of all("section")) {
    restrict(section);
    const labels = all("[data-label]", section);
    section.hidden = labels.length > 0
      ? labels.every((element) => !matches(`${section.dataset.title} ${element.dataset.label}`)) : filter.value !== "";
    number += section.hidden ? 0 : new Set(
      labels.filter((element) => !element.hidden).map((element) => element.dataset.label)).size;
    for (const row of all(`[data-section="${section.id}"]`)) row.hidden = section.hidden;
  }
  document.getElementById("matches").textContent = filter.value.trim() ? `${number} found` : "";
};

const sort = (heading) => {
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  const place = heading.cellIndex, body = heading.closest("table").tBodies[0];
  const key = (row) => row.cells[place].dataset.key ?? row.cells[place].textContent.trim();
  const isNumber = heading.classList.contains("number");
  const absent = (value) => value === "" || value === "—";
  for (const other of heading.parentNode.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (absent(a) || absent(b)) return absent(a) - absent(b);
    const order = isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
    return ascending ? order : -order;
  });
  body.append(...rows);
};

const draw = (plot) => {
  if (plot.data || plot.closest("[hidden]")) return;
  const figure = figures[plot.dataset.chart], shown = shownIn(plot.closest("section"));
  const data = figure.data.map((trace) => ({ ...trace, visible: shown(trace.meta) }));
  Plotly.newPlot(plot, data, figure.layout, { responsive: true, displayModeBar: false });
};

for (const button of all("th button")) button.addEventListener("click", () => sort(button.parentNode));
filter.addEventListener("input", applyFilter);
for (const section of all("section")) {
  section.addEventListener("change", () => restrict(section));
  for (const button of all("[data-all]", section)) {
    button.addEventListener("click", () => {
      for (const box of all(".legend input", section)) box.checked = button.dataset.all !== "";
      restrict(section);
    });
  }
}

const start = async () => {
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  figures = JSON.parse(await unpack("figures"));
  document.head.append(script);
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, { rootMargin: "600px" });
  for (const plot of plots) watcher.observe(plot);
  // On paper every chart is drawn, as wide as its column there.
  addEventListener("beforeprint", () => {
    for (const plot of plots) {
      draw(plot);
      if (plot.data) Plotly.relayout(plot, { width: plot.closest(".wide") ? 680 : 330 });
    }
  });
  addEventListener("afterprint", () => {
    for (const plot of plots) if (plot.data) Plotly.relayout(plot, { width: null, autosize: true });
  });
  document.documentElement.dataset.ready = "true";
};
start();
