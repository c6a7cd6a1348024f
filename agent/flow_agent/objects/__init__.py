"""Object stores: one module per SDK, imported when it is first used. Storages, results and ``doctor`` go through it."""
