"""One way to speak to models: :meth:`Engine.generate` and :meth:`Engine.choose`."""
