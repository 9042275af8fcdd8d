"""Version 1 of the admin API's messages. Generated from admin.proto by ``python -m rekindle.admin.generate``."""
