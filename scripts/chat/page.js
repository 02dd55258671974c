// Gradio writes these for screen readers in English, and with the markup of the answer in them.
const mend = () => {
  const chosen = document.querySelector("#language input:checked")?.value;
  if (chosen) document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  document.querySelectorAll("[data-testid][aria-label*='message:']").forEach((element) => element.removeAttribute("aria-label"));
  document.querySelectorAll("#budget input").forEach((element) => {
    const label = document.querySelector("#budget [data-testid=block-info]")?.textContent.trim();
    if (label && element.ariaLabel !== label) element.ariaLabel = label;
  });
  document.querySelectorAll("[role=log]").forEach((element) => {
    const label = element.closest(".block")?.querySelector("[data-testid=block-label]")?.textContent.trim();
    if (label && element.ariaLabel !== label) element.ariaLabel = label;
  });
};
new MutationObserver(mend).observe(document, { childList: true, subtree: true });

// The conversation becomes a file here, in the browser, and only when asked for.
const saveConversation = (text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `medcot-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
