// Formulas are what pymdownx.arithmatex has marked; dollars elsewhere are dollars.
window.MathJax = {
  tex: {
    inlineMath: [["\\(", "\\)"]],
    displayMath: [["\\[", "\\]"]],
    processEscapes: true,
    processEnvironments: true,
  },
  chtml: { scale: 0.92 },
  options: {
    ignoreHtmlClass: ".*|",
    processHtmlClass: "arithmatex",
    // The menu would load parts that the site does not carry.
    enableMenu: false,
  },
};
