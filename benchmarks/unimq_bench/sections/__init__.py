"""The sections of the page: each takes a `View` and yields HTML, or nothing where the result has nothing for it."""
