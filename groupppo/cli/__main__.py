"""python -m groupppo.cli"""

from groupppo.cli.app import app

app()
