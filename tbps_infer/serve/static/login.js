// The sign-in page: say that the token was wrong.

const wrong = document.getElementById("wrong");
if (wrong) wrong.hidden = !new URLSearchParams(location.search).has("wrong");
