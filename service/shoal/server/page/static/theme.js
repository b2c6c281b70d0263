/* Runs before the first paint, so that a chosen theme does not flash. */
try {
  const chosen = JSON.parse(localStorage.getItem("shoal.theme") ?? '""');
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // no storage here: the theme of the system
}
