"""The page that shows a running server, as files in `static/`; `app/api/routes/console.py` sends them."""
