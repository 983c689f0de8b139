new View(document.getElementById("view")).show(
  JSON.parse(document.getElementById("payload").textContent),
);
