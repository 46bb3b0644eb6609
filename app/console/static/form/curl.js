// A request as a command line.

const LONGEST_ARGUMENT = 100000; // Linux takes 131,072 bytes

export function asCurl(path, body, guarded) {
  const address = new URL(path, document.baseURI).href;
  const token = guarded ? ` \\\n  -H "Authorization: Bearer $POLICY_SERVER_DATA_TOKEN"` : "";
  const text = JSON.stringify(body);
  const start = `curl -s ${quoted(address)}${token} \\\n  -H 'Content-Type: application/json'`;
  if (text.length > LONGEST_ARGUMENT) return `${start} -d @- <<'END'\n${text}\nEND`;
  return `${start} \\\n  -d ${quoted(text)}`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Puts text on the clipboard; a page that did not come by HTTPS has only the old way. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return undefined;
}
