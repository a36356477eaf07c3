// Files out of what is dropped or pasted; folders are opened.

export function pasted(clipboard) {
  return [...(clipboard?.files ?? [])].map((file) => ({ file, name: file.name === "image.png" ? "Pasted image" : file.name }));
}

// At most `most` files, those of folders by their path in them.
export async function dropped(transfer, most) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  // All at once: after the first wait the browser has emptied the list.
  const taken = items.map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  const found = [];
  for (const { entry, file } of taken) {
    if (entry?.isDirectory) await open(entry, found, most);
    else if (file) found.push({ file, name: file.name });
  }
  return found;
}

async function open(folder, found, most) {
  const reader = folder.createReader();
  while (found.length < most) {
    // Hands out some of the entries at each call, and none at the end.
    const entries = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!entries.length) return;
    for (const entry of entries) {
      if (found.length >= most) return;
      if (entry.name.startsWith(".")) continue;
      if (entry.isDirectory) await open(entry, found, most);
      else await take(entry, found);
    }
  }
}

async function take(entry, found) {
  const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
  if (file) found.push({ file, name: entry.fullPath.replace(/^\//, "") });
}
