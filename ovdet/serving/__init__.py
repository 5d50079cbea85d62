"""A detector behind HTTP: service.py answers questions about photos, app.py speaks HTTP, page.html is for people."""
