"""Git hosts by their APIs: one commit, one file or one folder of a repository; each module knows one API."""
