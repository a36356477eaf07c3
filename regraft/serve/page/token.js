// The field for the token. What is typed lives in memory alone: no storage, no cookie, no address.

const at = (id) => document.getElementById(id);
// What a header can carry.
const SENDABLE = /^[\x21-\x7e]+$/;

// A promise of the token that the person gives; `refused` says that the last one was not accepted.
export function askForToken(refused) {
  const form = at("token");
  const field = at("secret");
  const problem = at("token-problem");
  form.hidden = false;
  complain(problem, field, refused ? "The server did not accept that token." : "");
  field.value = "";
  field.focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      const given = field.value.trim();
      if (!SENDABLE.test(given)) return complain(problem, field, "A token has letters, digits and signs, and no spaces.");
      field.value = "";
      form.hidden = true;
      resolve(given);
      at("choose").focus();
    };
  });
}

function complain(problem, field, text) {
  problem.textContent = text;
  problem.hidden = !text;
  field.setAttribute("aria-invalid", String(Boolean(text)));
}
