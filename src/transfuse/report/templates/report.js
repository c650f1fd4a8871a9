/* Makes the still charts interactive; where anything fails, the still picture stays. */
(function () {
  "use strict";
  const specs = JSON.parse(document.getElementById("chart-specs").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const views = [];
  const options = { renderer: "svg", actions: false, tooltip: { theme: dark ? "dark" : "light" } };

  async function enliven(key) {
    const place = document.getElementById(key);
    const still = place.innerHTML;
    try {
      const result = await window.vegaEmbed(place, specs[key], options);
      views.push(result.view);
    } catch (error) {
      place.innerHTML = still;
      throw error;
    }
  }

  function listen() {
    const buttons = Array.from(document.querySelectorAll("[data-arm]"));
    let focus = null;
    function show() {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.arm === focus));
      for (const view of views) {
        try {
          view.signal("focus", focus).runAsync();
        } catch (_) {
          /* a chart without this parameter */
        }
      }
    }
    for (const button of buttons) {
      button.disabled = false;
      button.addEventListener("click", function () {
        focus = focus === button.dataset.arm ? null : button.dataset.arm;
        show();
      });
    }
  }

  Promise.all(Object.keys(specs).map(enliven)).then(function () {
    listen();
    document.documentElement.dataset.charts = "ready";
  });
})();
