// The invitation stands behind the # of the link, which is sent to no server; it moves into the form and out of sight.
const field = document.getElementById("invitation");
if (location.hash.length > 1) {
  field.value = location.hash.slice(1);
  field.closest("label").hidden = true;
  history.replaceState(null, "", location.pathname);
}
