"""A simulated plant: an ERP and two MES as real processes with real protocols and books of their own."""
