// Returns texts outside of the window, cut without an ellipsis, or cut without the whole of them in a popover; time labels
// that are rotated or touch each other; and whether the page scrolls sideways.
() => {
  const found = [];
  for (const each of document.querySelectorAll('main *, header *')) {
    const isText = [...each.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!isText || each.closest(".visually-hidden, svg, select") || !each.checkVisibility({ visibilityProperty: true })) continue;
    const { overflowX, textOverflow } = getComputedStyle(each);
    const isCut = ['hidden', 'clip'].includes(overflowX) && each.clientWidth > 2 && each.scrollWidth > each.clientWidth + 1;
    if (isCut && (textOverflow !== 'ellipsis' || !each.closest('[data-tip]'))) found.push(`cut: ${each.outerHTML.slice(0, 90)}`);
    const { left, right, width } = each.getBoundingClientRect();
    const isOutside = width > 1 && (right > innerWidth + 1 || left < -1);
    if (isOutside && !each.closest('[role=region]')) found.push(`outside: ${each.outerHTML.slice(0, 90)}`);
  }
  for (const axis of document.querySelectorAll('.xaxislayer-above')) {
    if (!axis.checkVisibility()) continue;
    const labels = [...axis.querySelectorAll('.xtick text')];
    if (labels.some(label => /rotate\((?!0[,)])/.test(label.getAttribute('transform')))) found.push('rotated');
    const boxes = labels.map(label => label.getBoundingClientRect()).sort((one, other) => one.left - other.left);
    if (boxes.some((box, index) => index && box.left < boxes[index - 1].right + 2)) found.push('overlapping time labels');
  }
  return document.documentElement.scrollWidth > innerWidth ? [...found, 'scrolls sideways'] : found;
}
