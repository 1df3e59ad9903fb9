"use strict";
// Search: places by the words that they hold. Without scripts all of the guide can be read.
(() => {
  const most = 20;
  const input = document.getElementById("search");
  const found = document.getElementById("found");
  const results = document.getElementById("results");
  const list = document.getElementById("list");

  // A place is a heading and all that follows up to the next.
  const places = [];
  for (const article of document.querySelectorAll("article")) {
    let place = null;
    for (const element of article.children) {
      if (/^H[2-4]$/.test(element.tagName)) {
        place = { id: element.id, title: element.textContent, page: article.dataset.page, text: "" };
        places.push(place);
      } else if (place) {
        place.text += " " + element.textContent.replace(/\s+/g, " ");
      }
    }
  }

  const score = (place, words) => {
    const title = (place.page + " " + place.title).toLowerCase();
    const text = place.text.toLowerCase();
    let sum = 0;
    for (const word of words) {
      if (title.includes(word)) sum += 10;
      else if (!text.includes(word)) return 0;
      sum += Math.min(5, text.split(word).length - 1);
    }
    return sum;
  };

  const snippet = (place, word) => {
    const at = Math.max(0, place.text.toLowerCase().indexOf(word) - 40);
    return (at > 0 ? "... " : "") + place.text.slice(at, at + 120).trim() + " ...";
  };

  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    results.replaceChildren();
    list.hidden = words.length > 0;
    found.textContent = "";
    if (!words.length) return;
    const best = places.map((place) => [score(place, words), place])
      .filter((pair) => pair[0] > 0).sort((a, b) => b[0] - a[0]);
    found.textContent = best.length === 1 ? "1 place" : `${best.length} places`;
    for (const [, place] of best.slice(0, most)) {
      const link = document.createElement("a");
      link.href = "#" + place.id;
      link.textContent = place.title === place.page ? place.page : `${place.page}: ${place.title}`;
      const text = document.createElement("small");
      text.textContent = snippet(place, words[0]);
      const item = document.createElement("li");
      item.append(link, text);
      results.append(item);
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== input) {
      event.preventDefault();
      input.focus();
    }
  });
})();
