"""What the program ends with: a session over standard input and output."""

from cml_nova.remote.runner.session import Session

Session().run()
