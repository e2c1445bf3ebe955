"""A name that is markup: a page that shows it unescaped runs its script."""

MARKUP = "<img src=x onerror=alert(1)>&\"'"
