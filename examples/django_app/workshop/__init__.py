"""A bicycle workshop: a Django project with an extension on its one page."""
