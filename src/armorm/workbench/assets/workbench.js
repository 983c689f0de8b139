/* What the workbench of Gradio needs of the view: to show a payload, its state, and downloads. */

window.armorm = {
  view: null,

  show(root, payload) {
    if (!payload) return;
    this.view = new View(root);
    this.view.show(payload);
  },

  state() {
    return JSON.stringify(this.view ? this.view.state() : null);
  },

  /* Offers a text as a file; the page keeps it and sends it nowhere. */
  save(file) {
    if (!file) return;
    const address = URL.createObjectURL(new Blob([file.text], { type: file.type }));
    const link = make("a", { href: address, download: file.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  },
};
