"""Front ends: how programs that move atoms call the compiled engine. Importing one needs no torch."""
