"""What is looked at: plots.py, pictures and tables; sliders.py, explorers."""
