const view = new View(document.getElementById("view"));
view.show(JSON.parse(document.getElementById("payload").textContent));
